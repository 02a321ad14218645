import sys, tempfile, time, resource
from pathlib import Path
from tests.hostile.kinds import KINDS
from tests.hostile.trying import *
import torch; torch.set_num_threads(1)
import logging, warnings; warnings.simplefilter("ignore"); logging.disable(logging.CRITICAL)
n=int(sys.argv[1])
for kind in KINDS:
    if len(sys.argv)>2 and not any(a in kind.name for a in sys.argv[2:]): continue
    t=Tally(); t0=time.time()
    with tempfile.TemporaryDirectory() as d:
        place=Place(Path(d), Path("/tmp/h/setting/runs/tiny"), kind)
        t1=time.time()
        property_of(kind, place, t, n, stop=False)()
    print(f"{kind.name}: {t.inputs} mutated {t.mutated} acc {t.accepted} ref {t.refused} setup {t1-t0:.1f} s, {1000*(time.time()-t1)/n:.1f} ms each, slowest {t.slowest:.2f}")
    for k,v in t.escaped.most_common(): print("   E", v,k)
    for k,v in t.outside.most_common(30): print("   O", v,k)
