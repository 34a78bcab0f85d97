"""ComfyUI's entry point: the nodes of `nodes.py`."""

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES


class PersonaLiveExtension(ComfyExtension):
    """The nodes of this folder."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them."""
        return list(NODES)


async def comfy_entrypoint() -> PersonaLiveExtension:
    """Called by ComfyUI when it loads the folder."""
    return PersonaLiveExtension()
