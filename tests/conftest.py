"""What all tests share: shapes and types of `maskrcnn_jax` are checked at every call, and so are implicit ranks."""

import hypothesis
import jaxtyping

# Before anything imports the package. The numeric tower: an int is welcome where a float is annotated.
jaxtyping.install_import_hook("maskrcnn_jax", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

hypothesis.settings.register_profile("small", max_examples=30, deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("small")
