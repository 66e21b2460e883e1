"""Parts that work on text and numbers load where there is no JAX."""

from tests.layers_test import NO_JAX, ROOT, WITH_JAX, _sources, _within

# What others have imported counts for nothing; what they import of other packages stays.
WITHOUT = """
import sys
away = "jax jaxlib jaxlab jaxlab_kernels flax optax orbax chex tensorstore".split()
for name in [name for name in sys.modules if name.partition(".")[0] in away]:
    del sys.modules[name]
asked = []
class Refusing:
    def find_spec(self, name, *_):
        if name in ("jax", "flax", "optax", "orbax"):
            asked.append(name)
            raise ImportError(f"a part without {name} imports it")
sys.meta_path.insert(0, Refusing())
"""


def test_parts_without_jax_load_without_jax(forks, tmp_path):
    names = [m for m in _sources() if _within(m, NO_JAX) and m not in WITH_JAX]
    program = tmp_path / "program.py"
    program.write_text(
        WITHOUT + "".join(f"import jaxlab.{name}\n" for name in names) + "print(*asked)"
    )
    done = forks.run(program, cwd=ROOT)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
