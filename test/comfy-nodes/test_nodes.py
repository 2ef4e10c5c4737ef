"""The nodes of nodes.json, run against a real bridge."""

from __future__ import annotations

import asyncio
import threading
import time
import unittest

from pack_support import ROOT, Bridge, pack, part

import comfy.model_management  # isort: skip - ComfyUI is on the path once pack_support is there
import safetensors.torch  # isort: skip
import torch  # isort: skip
from comfy_execution.graph_utils import ExecutionBlocker  # isort: skip

EXPECTED = safetensors.torch.load_file(ROOT / "expected.safetensors")
CLIP = "CLIP-ViT-H-demo.safetensors"
extension = asyncio.run(pack.comfy_entrypoint())
NODES = {node.define_schema().node_id: node for node in asyncio.run(extension.get_node_list())}
BridgeError = part("bridge_client").BridgeError
waiting = part("nodes.waiting")


def run(node: str, **inputs: object) -> tuple:
    """Outputs of a node."""
    return asyncio.run(NODES[node].execute(**inputs)).args


def encode(image: torch.Tensor = EXPECTED["image"]) -> object:
    """Features of images."""
    return run("VisionBridgeEncode", clip_name=CLIP, image=image, crop="center", precision="comfy")[0]


class Nodes(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.bridge = Bridge().__enter__()
        cls.addClassCleanup(cls.bridge.__exit__)

    def test_every_served_node_is_there_and_lists_the_files_of_comfyui(self) -> None:
        self.assertIn("VisionBridgeCLIPVisionLoader", NODES)
        self.assertGreaterEqual(len(NODES), 7)
        schema = NODES["VisionBridgeEncode"].define_schema()
        inputs = {entry.id: entry for entry in schema.inputs}
        options = inputs["clip_name"].options
        choices = options["options"] if isinstance(options, dict) else options
        self.assertIn(CLIP, choices)

    def test_encode_gives_the_features_of_the_engine_to_the_last_bit(self) -> None:
        features = encode()
        for name in ("last_hidden_state", "penultimate_hidden_states", "image_embeds"):
            self.assertTrue(torch.equal(features[name], EXPECTED[f"clip.center.{name}"]), name)
        self.assertIsNone(features.mm_projected)

    def test_progress_of_the_bridge_is_progress_of_the_node(self) -> None:
        seen: list[tuple[str, float, float]] = []
        original = waiting._show_progress
        waiting._show_progress = lambda node, progress, _image: seen.append((node, progress.value, progress.max))
        events = part("bridge").events
        try:
            encode()  # opens the websocket
            events.wait_connected()
            self.assertTrue(events.is_connected)
            seen.clear()
            # Pictures that are known already are not encoded again.
            encode(torch.rand(12, 60, 80, 3))
        finally:
            waiting._show_progress = original
        if waiting.get_executing_context() is None:
            self.skipTest("no node runs in this ComfyUI")
        # A step may hold several pictures.
        self.assertGreaterEqual(len(seen), 3)
        self.assertEqual(seen[-1][1:], (12, 12))
        self.assertEqual({node for node, _value, _max in seen}, {"7"})

    def test_features_are_saved_listed_and_loaded_unchanged(self) -> None:
        features = encode()
        saved = asyncio.run(NODES["VisionBridgeSaveFeatures"].execute(features=features, filename_prefix="python"))
        name = f"{saved.ui['features'][0]['filename']} [output]"
        schema = NODES["VisionBridgeLoadFeatures"].define_schema()
        options = schema.inputs[0].options
        self.assertIn(name, options["options"] if isinstance(options, dict) else options)
        loaded = run("VisionBridgeLoadFeatures", file=name)[0]
        self.assertTrue(torch.equal(loaded.image_embeds, features.image_embeds))
        first = NODES["VisionBridgeLoadFeatures"].fingerprint_inputs(file=name)
        with (ROOT / "output" / name.removesuffix(" [output]")).open("ab") as file:
            file.write(b" ")
        self.assertNotEqual(NODES["VisionBridgeLoadFeatures"].fingerprint_inputs(file=name), first)

    def test_similarity_is_the_cosine_that_torch_computes(self) -> None:
        features = encode()
        score, matrix, values = run(
            "VisionBridgeSimilarity",
            features_a=features,
            features_b=features,
            compare="image embeds",
            score_of="mean",
        )
        unit = torch.nn.functional.normalize(features.image_embeds)
        cosines = unit @ unit.T
        self.assertAlmostEqual(score, cosines.mean().item(), 5)
        self.assertEqual(matrix.shape, (1, 64, 64, 3))
        self.assertTrue(torch.allclose(torch.tensor(part("nodes.node_call").json.loads(values)), cosines, atol=1e-5))

    def test_the_gate_passes_the_very_object_or_blocks(self) -> None:
        features = encode()
        value = object()
        inputs = {"features_a": features, "features_b": features, "compare": "image embeds", "score_of": "lowest"}
        score = run("VisionBridgeGate", value=value, threshold=0.0, **inputs)[2]
        accepted, rejected, _score, is_accepted = run("VisionBridgeGate", value=value, threshold=score - 0.01, **inputs)
        self.assertIs(accepted, value)
        self.assertIsInstance(rejected, ExecutionBlocker)
        self.assertIs(is_accepted, True)
        accepted, rejected, _score, is_accepted = run(
            "VisionBridgeGate", value=value, threshold=min(1.0, score + 0.001), **inputs
        )
        self.assertIsInstance(accepted, ExecutionBlocker)
        self.assertIs(rejected, value)
        self.assertIs(is_accepted, False)

    def test_the_patch_map_shows_the_principal_components_that_torch_finds(self) -> None:
        features = encode(EXPECTED["image"][:1])
        image, mask = run(
            "VisionBridgePatchMap",
            features=features,
            view="principal components",
            state="last_hidden_state",
            x=0.5,
            y=0.5,
            side=16,
            rows=0,
        )
        patches = features.last_hidden_state[0, 1:].double()
        _u, _s, v = torch.linalg.svd(patches - patches.mean(0), full_matrices=False)
        projected = (patches - patches.mean(0)) @ v[:3].T
        self.assertEqual(image.shape, (1, 16, 16, 3))
        for component in range(3):
            shown = image[0, :, :, component].flatten().double()
            expected = projected[:, component]
            # Colours are the component, spread and cut at one percent of either end.
            correlation = torch.corrcoef(torch.stack([shown, expected]))[0, 1].abs().item()
            self.assertGreater(correlation, 0.99)
        self.assertTrue(torch.equal(mask, image[..., 0]))

    def test_values_of_a_kind_that_the_pack_does_not_know_are_carried(self) -> None:
        values = part("nodes.values")
        kept = values.from_wire({"kind": "adapter", "name": "x"}, {"weights": values.to_buffer(torch.ones(2))}, {})
        descriptor, tensors = values.to_wire("adapter", "VISION_BRIDGE_ADAPTER", kept)
        self.assertEqual(descriptor, {"kind": "adapter", "name": "x"})
        self.assertTrue(torch.equal(values.to_tensor(tensors["weights"]), torch.ones(2)))

    def test_errors_of_the_bridge_and_of_the_pack_say_what_to_do(self) -> None:
        with self.assertRaisesRegex(BridgeError, r"\[INVALID_REQUEST\].*none.safetensors.*no choice"):
            run(
                "VisionBridgeEncode",
                clip_name="none.safetensors",
                image=EXPECTED["image"],
                crop="center",
                precision="comfy",
            )
        with self.assertRaisesRegex(BridgeError, "features_a: a dict holds no features"):
            run("VisionBridgeSimilarity", features_a={}, features_b={}, compare="image embeds", score_of="mean")
        with self.assertRaisesRegex(BridgeError, "image: a str is no IMAGE"):
            run("VisionBridgeEncode", clip_name=CLIP, image="x", crop="center", precision="comfy")

    def test_an_interrupt_cancels_the_call_and_the_next_one_succeeds(self) -> None:
        many = torch.rand(100, 224, 224, 3)

        def interrupt_soon() -> None:
            while self.bridge.health()["inference"]["pending"] == 0:
                time.sleep(0.005)
            comfy.model_management.interrupt_current_processing(True)

        thread = threading.Thread(target=interrupt_soon)
        thread.start()
        with self.assertRaises(comfy.model_management.InterruptProcessingException):
            encode(many)
        thread.join()
        self.bridge.wait_idle()
        self.assertEqual(encode().image_embeds.shape[0], 2)

    def test_a_cancelled_task_cancels_the_call(self) -> None:
        async def begin_and_cancel() -> None:
            node = NODES["VisionBridgeEncode"]
            many = torch.rand(100, 224, 224, 3)
            task = asyncio.create_task(node.execute(clip_name=CLIP, image=many, crop="center", precision="comfy"))
            while (await asyncio.to_thread(self.bridge.health))["inference"]["pending"] == 0:
                await asyncio.sleep(0.005)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(begin_and_cancel())
        self.bridge.wait_idle()


if __name__ == "__main__":
    unittest.main()
