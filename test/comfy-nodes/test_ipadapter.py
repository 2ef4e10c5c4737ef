"""IP-Adapters: the nodes against a real bridge, and the attention patch against the formula and stored tensors."""

from __future__ import annotations

import asyncio
import json
import os
import unittest
from pathlib import Path
from types import SimpleNamespace

from pack_support import Bridge, pack, part

import comfy.model_patcher  # isort: skip - ComfyUI is on the path once pack_support is there
import numpy as np  # isort: skip
import safetensors.torch  # isort: skip
import torch  # isort: skip

GOLDEN = Path(os.environ["PACK_TEST_GOLDEN"]) / "ipadapter"
TOLERANCE = 2e-5
CPU = torch.device("cpu")
extension = asyncio.run(pack.comfy_entrypoint())
NODES = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
BridgeError = part("bridge_client").BridgeError
apply = part("nodes.ipadapter_apply")
patch = part("nodes.attention_patch")
values = part("nodes.values")
STORED = safetensors.torch.load_file(GOLDEN / "expected" / "attention.safetensors")
BASE = safetensors.torch.load_file(GOLDEN / "expected" / "base-sd15.safetensors")


def run(node: str, **inputs: object) -> tuple:
    """Outputs of a node."""
    return asyncio.run(NODES[node].execute(**inputs)).args


def percent_to_sigma(percent: float) -> float:
    return 999999999.9 if percent <= 0 else 0.0 if percent >= 1 else 10 * (1 - percent)


def new_model(context_width: int | None = 40) -> comfy.model_patcher.ModelPatcher:
    """A MODEL as the node sees it."""
    unet = torch.nn.Module()
    unet.model_config = SimpleNamespace(unet_config={"context_dim": context_width} if context_width else {})
    unet.model_sampling = SimpleNamespace(percent_to_sigma=percent_to_sigma)
    return comfy.model_patcher.ModelPatcher(unet, load_device=CPU, offload_device=CPU)


def replaced(model: comfy.model_patcher.ModelPatcher) -> dict:
    """The replaced cross-attentions of a model."""
    return model.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})


def options_of(sides: list[int], heads: int = 3, sigma: float = 5.0, shape: tuple = (2, 4, 8, 6)) -> dict:
    """What ComfyUI tells a replacement."""
    return {
        "n_heads": heads,
        "dim_head": 16,
        "attn_precision": None,
        "cond_or_uncond": sides,
        "sigmas": torch.tensor([sigma]),
        "original_shape": list(shape),
    }


def attention_by_hand(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """One row, head by head, in doubles."""
    size = q.shape[-1] // heads
    out = np.empty_like(q)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / np.sqrt(size)
        powers = np.exp(scores - scores.max(axis=1, keepdims=True))
        out[:, own] = powers / powers.sum(axis=1, keepdims=True) @ v[:, own]
    return out


def by_hand(text: tuple, sides: list[int], images: list[dict], heads: int = 3) -> np.ndarray:
    """The formula: text, then every adapter's weight * mask * attention. An image: weight, keys, values, mask."""
    q, k, v = (tensor.double().numpy() for tensor in text)
    count = len(q) // len(sides)
    rows = []
    for row in range(len(q)):
        out = attention_by_hand(q[row], k[row], v[row], heads)
        for image in images:
            side = sides[row // count]
            keys, sight = (image[name][side].double().numpy() for name in ("keys", "values"))
            width = keys.shape[-1]
            term = attention_by_hand(q[row], keys.reshape(-1, width), sight.reshape(-1, width), heads)
            out = out + image["weight"] * image.get("mask", np.ones((len(term), 1))) * term
        rows.append(out)
    return np.stack(rows)


def random_text(rows: int, queries: int = 48, width: int = 48, seed: int = 0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, length, width, generator=generator) for length in (queries, 7, 7))


def add_hundred(q: torch.Tensor, _k: torch.Tensor, _v: torch.Tensor, _options: dict) -> torch.Tensor:
    """A replacement of somebody else's."""
    return q + 100


def layer_tokens(cond: torch.Tensor, uncond: torch.Tensor, key: str) -> object:
    """Keys and values of stored tokens."""
    to_k, to_v = (STORED[f"ip_adapter.{key}.to_{side}_ip.weight"] for side in "kv")
    return patch.LayerTokens(cond @ to_k.T, cond @ to_v.T, uncond @ to_k.T, uncond @ to_v.T)


class Close(unittest.TestCase):
    def assertClose(self, given: torch.Tensor, expected: object, tolerance: float = TOLERANCE) -> None:
        difference = np.abs(given.double().numpy() - np.asarray(expected, dtype=np.float64)).max()
        self.assertLessEqual(difference, tolerance)


class AttentionPatch(Close):
    def test_cases_of_ipadapter_plus_come_out_the_same(self) -> None:
        document = json.loads((GOLDEN / "expected" / "attention.json").read_text())
        text = (STORED["q"], STORED["k_text"], STORED["v_text"])
        for case in document["cases"]:
            with self.subTest(case["name"]):
                model = new_model()
                for adapter in case["adapters"]:
                    application = patch.Application(
                        adapter["sigma_start"],
                        adapter["sigma_end"],
                        adapter["embeds_scaling"],
                        None if adapter["mask"] is None else STORED[adapter["mask"]],
                        adapter["unfold_batch"],
                    )
                    tokens = layer_tokens(STORED[adapter["cond"]], STORED[adapter["uncond"]], adapter["module_key"])
                    patch.add_image_attention(model, ("input", 1), tokens, adapter["weight"], application)
                sides = case.get("cond_or_uncond", document["default"]["cond_or_uncond"])
                options = options_of(sides, document["heads"], document["sigma"], document["original_shape"])
                there = replaced(model).get(("input", 1), patch._attention)
                self.assertClose(there(*text, options), STORED[case["name"]])
        self.assertGreaterEqual(len(document["cases"]), 15)

    def test_masks_are_seen_by_the_queries_of_a_block_as_ipadapter_plus_shows_them(self) -> None:
        names = [name for name in STORED if name.startswith("mask_tokens.")]
        for name in names:
            height, width = map(int, name.split(".")[1].split("x"))
            seen = patch.mask_tokens(STORED["mask"], height, width, int(name.split(".")[2]))
            self.assertClose(seen[0], STORED[name], 1e-5)
        self.assertGreaterEqual(len(names), 8)

    def test_layers_go_where_ipadapter_plus_puts_them_but_the_middle_is_reached(self) -> None:
        document = json.loads((GOLDEN / "weight-types.json").read_text())
        for family in ("sd15", "sdxl"):
            blocks = [tuple(block) for block in document[f"blocks_{family}"]]
            expected = []
            for block, layer in document[f"key_numbering_{family}"]:
                place = blocks.index(tuple(block[:2]))
                # ComfyUI calls the middle block 0.
                actual = ("middle", 0, *block[2:]) if block[0] == "middle" else tuple(block)
                expected.append((layer, actual, place))
            self.assertEqual(sorted(apply.layer_places(family)), sorted(expected))

    def test_a_batch_of_latents_with_masks_of_their_own_and_several_conditions(self) -> None:
        tokens = layer_tokens(STORED["cond3"], STORED["uncond3"], "1")
        mask = torch.stack([torch.ones(8, 6), torch.zeros(8, 6)])
        model = new_model()
        application = patch.Application(99.0, 0.0, mask=mask)
        patch.add_image_attention(model, ("output", 3), tokens, 0.8, application)
        sides = [1, 0, 0]
        text = random_text(6)
        image = {
            "weight": 0.8,
            "keys": [tokens.cond_keys, tokens.uncond_keys],
            "values": [tokens.cond_values, tokens.uncond_values],
        }
        out = replaced(model)[("output", 3)](*text, options_of(sides))
        whole = by_hand(text, sides, [image])
        for row in range(6):
            # The second latent of every condition is masked out: text alone.
            expected = whole[row] if row % 2 == 0 else by_hand(text, sides, [])[row]
            self.assertClose(out[row], expected)

    def test_one_picture_per_latent_follows_the_window_of_animatediff(self) -> None:
        tokens = layer_tokens(STORED["cond3"], STORED["uncond3"], "1")
        patched = patch.ImageAttention(tokens, 1.0, patch.Application(99.0, 0.0, unfold_batch=True), None)
        text = random_text(2)
        out = patched(*text, {**options_of([0]), "ad_params": {"sub_idxs": [2, 0]}})
        for row, picture in enumerate([2, 0]):
            image = {"weight": 1.0, "keys": [tokens.cond_keys[picture]], "values": [tokens.cond_values[picture]]}
            self.assertClose(out[row], by_hand(tuple(part[row : row + 1] for part in text), [0], [image])[0])

    def test_it_adds_to_a_replacement_that_is_there_under_either_name(self) -> None:
        tokens = layer_tokens(STORED["cond1"], STORED["uncond1"], "1")
        text = random_text(2)
        application = patch.Application(99.0, 0.0)
        for there, block, asked in (
            [("input", 1), ("input", 1), ("input", 1)],
            [("input", 1, 0), ("input", 1), ("input", 1, 0)],
            [("input", 4), ("input", 4, 1), ("input", 4, 1)],
            [("input", 4, 1), ("input", 4, 1), ("input", 4, 1)],
        ):
            model = new_model()
            model.set_model_attn2_replace(add_hundred, *there)
            before = dict(replaced(model))
            patched = model.clone()
            patch.add_image_attention(patched, block, tokens, 1.0, application)
            alone = patch.ImageAttention(tokens, 1.0, application, None)(*text, options_of([0, 1]))
            plain = patch._attention(*text, options_of([0, 1]))
            self.assertClose(replaced(patched)[asked](*text, options_of([0, 1])), text[0] + 100 + (alone - plain), 1e-4)
            self.assertEqual(replaced(model), before)

    def test_it_computes_in_the_type_of_the_model(self) -> None:
        tokens = layer_tokens(STORED["cond1"], STORED["uncond1"], "1")
        mask = torch.full((1, 8, 6), 0.5)
        patched = patch.ImageAttention(tokens, 1.0, patch.Application(99.0, 0.0, mask=mask), None)
        text = random_text(2)
        out = patched(*(part.bfloat16() for part in text), options_of([0, 1]))
        self.assertEqual(out.dtype, torch.bfloat16)
        self.assertClose(out.float(), patched(*text, options_of([0, 1])), 0.1)


class Nodes(Close):
    @classmethod
    def setUpClass(cls) -> None:
        cls.bridge = Bridge().__enter__()
        cls.addClassCleanup(cls.bridge.__exit__)
        cls.adapter = run("VisionBridgeIPAdapterLoader", ipadapter="base.safetensors")[0]

    def stored_embeds(self) -> object:
        """The embeds whose tokens, keys and values are stored."""
        tensors = {"cond.image": BASE["b1.in.cond"], "uncond.image": BASE["b1.in.uncond"]}
        return values.BridgeValue(
            {"kind": "ipadapter_embeds", "provenance": {"images": [], "settings": {}}},
            {name: values.to_buffer(tensor) for name, tensor in tensors.items()},
        )

    def apply(self, model: object = None, **changed: object) -> object:
        """The patched model."""
        inputs = {
            "model": model or new_model(),
            "ipadapter": self.adapter,
            "embeds": self.stored_embeds(),
            "weight": 0.7,
            "weight_type": "linear",
            "start_at": 0.0,
            "end_at": 1.0,
            "embeds_scaling": "V only",
        }
        return run("VisionBridgeIPAdapterApply", **{**inputs, **changed})[0]

    def image(self, layer: int, weight: float) -> dict:
        """What the stored keys and values add."""
        sides = {
            name: [BASE[f"b1.{name[0]}_{side}.{layer}"] for side in ("cond", "uncond")] for name in ("keys", "values")
        }
        return {"weight": weight, **sides}

    def test_the_loader_offers_the_files_that_the_bridge_knows(self) -> None:
        offered = {}
        for entry in NODES["VisionBridgeIPAdapterLoader"].define_schema().inputs:
            options = entry.options
            offered[entry.id] = options["options"] if isinstance(options, dict) else options
        self.assertEqual(offered["ipadapter"], ["base.safetensors", "faces/faceid.safetensors"])
        self.assertIn("h-tiny.safetensors", offered["clip_vision"])
        self.assertEqual([offered["clip_vision"][0], *offered["face_pack"]], ["auto", "auto", "buffalo_l"])
        found = self.adapter.descriptor
        self.assertEqual([found["encoder_name"], found["face_pack"]], ["h-tiny.safetensors", None])
        faces = run("VisionBridgeIPAdapterLoader", ipadapter="faces/faceid.safetensors", face_pack="buffalo_l")[0]
        self.assertEqual([faces.descriptor["encoder_name"], faces.descriptor["face_pack"]], [None, "buffalo_l"])
        fingerprint = NODES["VisionBridgeIPAdapterLoader"].fingerprint_inputs
        self.assertNotEqual(*(fingerprint(ipadapter=name) for name in offered["ipadapter"]))

    def test_pictures_are_encoded_combined_saved_loaded_and_applied(self) -> None:
        picture = torch.rand(2, 60, 70, 3, generator=torch.Generator().manual_seed(3))
        embeds = [
            run("VisionBridgeIPAdapterEncode", ipadapter=self.adapter, image=part, weight=1.0, combine_embeds="concat")[
                0
            ]
            for part in (picture[:1], picture[1:])
        ]
        both = run("VisionBridgeCombineEmbeds", embeds1=embeds[0], method="concat", embeds2=embeds[1])[0]
        saved = asyncio.run(NODES["VisionBridgeSaveEmbeds"].execute(embeds=both, filename_prefix="sub/python"))
        name = f"sub/{saved.ui['embeds'][0]['filename']} [output]"
        entry = NODES["VisionBridgeLoadEmbeds"].define_schema().inputs[0]
        self.assertIn(name, entry.options["options"] if isinstance(entry.options, dict) else entry.options)
        loaded = run("VisionBridgeLoadEmbeds", embeds=name)[0]
        cond = values.to_tensor(loaded.tensors["cond.image"])
        each = [values.to_tensor(one.tensors["cond.image"]) for one in embeds]
        self.assertTrue(torch.equal(cond, torch.cat(each)))
        self.assertEqual(len(loaded.descriptor["provenance"]["images"]), 2)
        text = random_text(2)
        first, twice = (
            replaced(self.apply(embeds=value))[("input", 1)](*text, options_of([0, 1])) for value in (embeds[0], loaded)
        )
        self.assertGreater((first - twice).abs().max().item(), 1e-4)

    def test_encoding_and_applying_send_the_precision_that_was_chosen(self) -> None:
        picture = torch.rand(1, 60, 70, 3, generator=torch.Generator().manual_seed(4))
        given = {"ipadapter": self.adapter, "image": picture, "weight": 1.0, "combine_embeds": "concat"}
        made = {
            name: run("VisionBridgeIPAdapterEncode", **given, **({} if name == "none" else {"precision": name}))[0]
            for name in ("none", "comfy", "fp32", "int8")
        }
        chosen = {name: embeds.descriptor["provenance"]["settings"]["precision"] for name, embeds in made.items()}
        self.assertEqual(chosen, {"none": "comfy", "comfy": "comfy", "fp32": "fp32", "int8": "int8"})
        exact, rounded = (values.to_tensor(made[name].tensors["cond.image"]) for name in ("fp32", "int8"))
        self.assertGreater((exact - rounded).abs().max().item(), 0)
        sent = []
        send = apply.client.send_async

        async def listen(request: object, on_wait: object) -> object:
            sent.append(request.query.get("precision"))
            return await send(request, on_wait)

        apply.client.send_async = listen
        try:
            self.apply()
            self.apply(precision="int8")
        finally:
            del apply.client.send_async
        self.assertEqual([precision for precision in sent if precision], ["comfy", "int8"])
        with self.assertRaises(BridgeError) as refused:
            self.apply(precision="int4")
        self.assertEqual(refused.exception.code, "INVALID_REQUEST")

    def test_both_nodes_offer_the_precisions_of_the_bridge(self) -> None:
        for node in ("VisionBridgeIPAdapterEncode", "VisionBridgeIPAdapterApply"):
            entry = NODES[node].define_schema().inputs[-1]
            options = entry.options["options"] if isinstance(entry.options, dict) else entry.options
            self.assertEqual([entry.id, options], ["precision", ["comfy", "fp32", "int8"]])

    def test_the_model_gets_keys_and_values_of_the_bridge_with_and_without_an_unconditional_part(self) -> None:
        model = new_model()
        patched = replaced(self.apply(model))
        self.assertEqual(set(patched), {("input", 1), ("input", 2)})
        self.assertEqual(replaced(model), {})
        for layer, block in ((1, ("input", 1)), (3, ("input", 2))):
            width = BASE[f"b1.k_cond.{layer}"].shape[-1]
            for sides, rows in (([0, 1], 2), ([1, 0], 4), ([0], 2), ([1], 1)):
                text = random_text(rows, width=width)
                out = patched[block](*text, options_of(sides, heads=2))
                self.assertClose(out, by_hand(text, sides, [self.image(layer, 0.7)], heads=2), 5e-5)

    def test_adapters_in_sequence_add_up_each_in_its_range_of_steps(self) -> None:
        model = self.apply(self.apply(weight=0.5, end_at=0.4), weight=-0.3, start_at=0.4)
        text = random_text(2, width=BASE["b1.k_cond.1"].shape[-1])
        for sigma, weights in ((9.0, [0.5]), (6.0, [0.5, -0.3]), (2.0, [-0.3])):
            out = replaced(model)[("input", 1)](*text, options_of([0, 1], heads=2, sigma=sigma))
            images = [self.image(1, weight) for weight in weights]
            self.assertClose(out, by_hand(text, [0, 1], images, heads=2), 5e-5)

    def test_a_region_leaves_the_rest_as_it_was_to_the_last_bit(self) -> None:
        mask = torch.zeros(8, 6)
        mask[:, :3] = 1
        patched = replaced(self.apply(attn_mask=mask))[("input", 1)]
        text = random_text(2, width=BASE["b1.k_cond.1"].shape[-1])
        out = patched(*text, options_of([0, 1], heads=2))
        plain = patch._attention(*text, options_of([0, 1], heads=2))
        outside = mask.flatten() == 0
        self.assertTrue(torch.equal(out[:, outside], plain[:, outside]))
        image = {**self.image(1, 0.7), "mask": mask.double().numpy().reshape(-1, 1)}
        self.assertClose(out, by_hand(text, [0, 1], [image], heads=2), 5e-5)

    def test_a_weight_of_zero_is_no_patch_at_all(self) -> None:
        self.assertEqual(replaced(self.apply(weight=0.0)), {})
        only_second = replaced(self.apply(layer_weights="0:0, 1:0.5"))
        self.assertEqual(set(only_second), {("input", 2)})
        text = random_text(2)
        never = replaced(self.apply(start_at=0.9, end_at=1.0))[("input", 1)]
        options = options_of([0, 1])
        self.assertTrue(torch.equal(never(*text, options), patch._attention(*text, options)))

    def test_every_weight_type_is_one_of_the_bridge_and_precise_ones_turn_blocks_round(self) -> None:
        for weight_type in apply.WEIGHT_TYPES:
            self.apply(weight_type=weight_type)
        turned = replaced(self.apply(weight_type="composition precise"))[("input", 1)]
        text = random_text(2, width=BASE["b1.k_cond.1"].shape[-1])
        out = turned(*text, options_of([0, 1], heads=2))
        straight = self.image(1, 0.7)
        swapped = {
            "weight": 0.7,
            **{name: [torch.zeros_like(straight[name][0]), straight[name][0]] for name in ("keys", "values")},
        }
        self.assertClose(out, by_hand(text, [0, 1], [swapped], heads=2), 5e-5)

    def test_a_model_of_another_base_and_values_of_other_packs_are_refused_at_once(self) -> None:
        with self.assertRaisesRegex(BridgeError, r"\[PAIR_MISMATCH\].*40 wide.*text context 2048 wide"):
            self.apply(new_model(2048))
        with self.assertRaisesRegex(BridgeError, r"\[PAIR_MISMATCH\].*no model with a text context"):
            self.apply(new_model(None))
        with self.assertRaisesRegex(BridgeError, "ipadapter: connect a node of Vision Bridge"):
            self.apply(ipadapter={"ipadapter": 1})
        with self.assertRaisesRegex(BridgeError, "embeds: connect a node of Vision Bridge"):
            self.apply(embeds=self.adapter)
        with self.assertRaisesRegex(BridgeError, r"\[INVALID_REQUEST\].*layer weight"):
            self.apply(layer_weights="first: much")


if __name__ == "__main__":
    unittest.main()
