"""Image prompts in a sampler of a real ComfyUI: a small SD1.5 model of random weights, two steps on the CPU.

Needs COMFYUI_CHECKOUT. With IPADAPTER_PLUS_CHECKOUT as well, IPAdapter_plus applies the same adapter, and what comes
out is compared.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
import os
import sys
import unittest
from types import ModuleType

from pack_support import ROOT, Bridge, pack

COMFYUI = os.environ.get("COMFYUI_CHECKOUT")
IPADAPTER_PLUS = os.environ.get("IPADAPTER_PLUS_CHECKOUT")
if COMFYUI:
    import comfy.model_base
    import comfy.model_patcher
    import comfy.sample
    import comfy.supported_models
import safetensors.torch  # isort: skip
import torch  # isort: skip

# Threads that wait for each other lose a small model more time than they save, the more so on a busy machine.
torch.set_num_threads(1)
# SD1.5 with a tenth of its channels and a narrow text context.
CHANNELS = 32
CONTEXT = 48
# What the tiny encoder's image embeds have.
EMBEDS = 36
TOKENS = 4
WIDTHS = [1, 1, 2, 2, 4, 4, 4, 4, 4, 2, 2, 2, 1, 1, 1, 4]
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": CHANNELS,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": (1, 2, 4, 4),
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "transformer_depth_middle": 1,
    "num_heads": 4,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "use_temporal_attention": False,
    "context_dim": CONTEXT,
    "adm_in_channels": None,
    "legacy": False,
    "dtype": torch.float32,
}
LATENT = 8
# Of latents that are about 1: the two sum up in another order.
TOLERANCE = 1e-4
extension = asyncio.run(pack.comfy_entrypoint())
NODES = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}


def run(node: str, **inputs: object) -> tuple:
    """Outputs of a node."""
    return asyncio.run(NODES[node].execute(**inputs)).args


def write_adapter(name: str, seed: int) -> None:
    """An adapter in the layout of ip-adapter_sd15."""
    generator = torch.Generator().manual_seed(seed)

    def linear(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) / math.sqrt(columns)

    tensors = {
        "image_proj.proj.weight": linear(TOKENS * CONTEXT, EMBEDS),
        "image_proj.proj.bias": torch.zeros(TOKENS * CONTEXT),
        "image_proj.norm.weight": torch.ones(CONTEXT),
        "image_proj.norm.bias": torch.zeros(CONTEXT),
    }
    for place, factor in enumerate(WIDTHS):
        for side in "kv":
            name_of = f"ip_adapter.{2 * place + 1}.to_{side}_ip.weight"
            tensors[name_of] = linear(factor * CHANNELS, CONTEXT)
    safetensors.torch.save_file(tensors, ROOT / "models" / "ipadapter" / name)


def random_model() -> object:
    """A MODEL of ComfyUI's own classes."""
    model = comfy.model_base.BaseModel(comfy.supported_models.SD15(UNET))
    generator = torch.Generator().manual_seed(1)
    for name, value in model.diffusion_model.state_dict().items():
        if value.dim() > 1:
            value.copy_(torch.randn(value.shape, generator=generator) / math.sqrt(value[0].numel()))
        else:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model.eval(), load_device=cpu, offload_device=cpu)


def load_ipadapter_plus() -> ModuleType:
    name = "ipadapter_plus"
    spec = importlib.util.spec_from_file_location(
        name, os.path.join(IPADAPTER_PLUS, "__init__.py"), submodule_search_locations=[IPADAPTER_PLUS]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@unittest.skipUnless(COMFYUI, "COMFYUI_CHECKOUT names no ComfyUI")
class Sampling(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        for name, seed in (("sampled-a.safetensors", 2), ("sampled-b.safetensors", 3)):
            write_adapter(name, seed)
            cls.addClassCleanup((ROOT / "models" / "ipadapter" / name).unlink)
        cls.addClassCleanup(Bridge().__enter__().__exit__)
        cls.model = random_model()
        generator = torch.Generator().manual_seed(4)
        cls.pictures = torch.rand(2, 40, 50, 3, generator=generator)
        cls.text = [torch.randn(1, 7, CONTEXT, generator=generator) for _ in range(2)]
        cls.noise = torch.randn(2, 4, LATENT, LATENT, generator=generator)
        cls.left = torch.zeros(1, 8 * LATENT, 8 * LATENT)
        cls.left[:, :, : 4 * LATENT] = 1
        cls.loaded = {
            key: run("VisionBridgeIPAdapterLoader", ipadapter=f"sampled-{key}.safetensors")[0] for key in "ab"
        }
        cls.embeds = {
            key: run(
                "VisionBridgeIPAdapterEncode",
                ipadapter=cls.loaded[key],
                image=cls.pictures[place : place + 1],
                weight=1.0,
                combine_embeds="concat",
            )[0]
            for place, key in enumerate("ab")
        }

    def sample(self, model: object, batch: int = 1, cfg: float = 4.0) -> torch.Tensor:
        """Two steps of ComfyUI's own sampler."""
        positive, negative = ([[text, {}]] for text in self.text)
        noise = self.noise[:batch]
        latent = torch.zeros_like(noise)
        return comfy.sample.sample(
            model, noise, 2, cfg, "euler", "normal", positive, negative, latent, disable_pbar=True, seed=5
        )

    def apply(self, key: str = "a", model: object = None, **changed: object) -> object:
        """The model with an adapter of ours."""
        inputs = {
            "weight": 1.0,
            "weight_type": "linear",
            "start_at": 0.0,
            "end_at": 1.0,
            "embeds_scaling": "V only",
            **changed,
        }
        own = {"model": model or self.model, "ipadapter": self.loaded[key], "embeds": self.embeds[key]}
        return run("VisionBridgeIPAdapterApply", **own, **inputs)[0]

    def apart(self, one: torch.Tensor, other: torch.Tensor) -> float:
        return ((one - other).abs().max() / other.std()).item()

    def test_a_weight_of_zero_gives_the_picture_without_the_node_to_the_last_bit(self) -> None:
        plain = self.sample(self.model)
        self.assertTrue(torch.equal(self.sample(self.apply(weight=0.0)), plain))
        self.assertTrue(torch.isfinite(plain).all())
        self.assertGreater(self.apart(self.sample(self.apply()), plain), 0.01)
        # The model that was given is as it was.
        self.assertTrue(torch.equal(self.sample(self.model), plain))

    def test_adapters_in_sequence_add_up_in_either_order_and_each_counts(self) -> None:
        both = self.sample(self.apply("b", self.apply("a", weight=0.6), weight=0.8))
        turned = self.sample(self.apply("a", self.apply("b", weight=0.8), weight=0.6))
        self.assertLess(self.apart(both, turned), TOLERANCE)
        self.assertGreater(self.apart(both, self.sample(self.apply("a", weight=0.6))), 0.01)

    def test_the_middle_block_counts_where_it_is_asked_for(self) -> None:
        self.assertGreater(self.apart(self.sample(self.apply(middle_block=True)), self.sample(self.apply())), 1e-3)

    def test_batches_and_runs_without_an_unconditional_part(self) -> None:
        patched = self.apply()
        for batch, cfg in ((2, 4.0), (2, 1.0), (1, 1.0)):
            first = self.sample(patched, batch, cfg)[:1]
            self.assertLess(self.apart(first, self.sample(patched, 1, cfg)), TOLERANCE)

    @unittest.skipUnless(IPADAPTER_PLUS, "IPADAPTER_PLUS_CHECKOUT names no IPAdapter_plus")
    def test_ipadapter_plus_makes_the_same_picture_of_the_same_adapter(self) -> None:
        plus = load_ipadapter_plus()
        loader = sys.modules["ipadapter_plus.utils"].ipadapter_model_loader
        values = importlib.import_module(f"{pack.__name__}.nodes.values")
        files = {key: loader(str(ROOT / "models" / "ipadapter" / f"sampled-{key}.safetensors")) for key in "ab"}

        def apply_theirs(key: str = "a", model: object = None, **changed: object) -> object:
            sides = {
                f"{name}_embed": values.to_tensor(self.embeds[key].tensors[f"{side}.image"])
                for name, side in (("pos", "cond"), ("neg", "uncond"))
            }
            inputs = {
                "weight": 1.0,
                "weight_type": "linear",
                "start_at": 0.0,
                "end_at": 1.0,
                "embeds_scaling": "V only",
                **changed,
            }
            node = plus.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"]()
            return node.apply_ipadapter(model or self.model, files[key], **sides, **inputs)[0]

        right = 1 - self.left
        cases = {
            "linear": lambda apply: apply(),
            "weight types": lambda apply: apply(weight_type="ease in", weight=0.7),
            "style transfer, half of the steps": lambda apply: apply(weight_type="style transfer", end_at=0.5),
            "composition": lambda apply: apply(weight_type="composition", weight=1.5),
            "scaled keys": lambda apply: apply(embeds_scaling="K+mean(V) w/ C penalty", weight=0.8),
            "two adapters": lambda apply: apply("b", apply("a", weight=0.6), weight=-0.4),
            "two regions": lambda apply: apply("b", apply("a", attn_mask=self.left), attn_mask=right),
        }
        plain = self.sample(self.model, 2)
        for name, build in cases.items():
            with self.subTest(name):
                ours, theirs = self.sample(build(self.apply), 2), self.sample(build(apply_theirs), 2)
                self.assertLess(self.apart(ours, theirs), TOLERANCE)
                self.assertGreater(self.apart(ours, plain), 1e-3)


if __name__ == "__main__":
    unittest.main()
