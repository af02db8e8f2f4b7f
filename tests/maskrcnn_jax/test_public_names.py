"""What a newcomer at a prompt sees: `dir`, `help` and signatures."""

import inspect
import pydoc

import maskrcnn_jax


def test_dir_and_help_know_every_public_name():
    shown = pydoc.plain(pydoc.render_doc(maskrcnn_jax))
    for name in maskrcnn_jax.__all__:
        assert name in dir(maskrcnn_jax)
        assert name in (maskrcnn_jax.__doc__ or "")
        assert f"{name}(" in shown, f"help(maskrcnn_jax) does not describe {name}"


def test_the_signature_of_the_network_shows():
    assert str(inspect.signature(maskrcnn_jax.MaskRCNN)).startswith("(config: ")
    assert list(inspect.signature(maskrcnn_jax.MaskRCNN).parameters) == ["config", "rngs"]
