"""The drop-in loader against the engine: same numbers, everywhere a CLIP_VISION stands."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
import time
import unittest

from pack_support import ROOT, Bridge, part

import comfy.clip_vision  # isort: skip - ComfyUI is on the path once pack_support is there
import comfy.model_management  # isort: skip
import safetensors.torch  # isort: skip
import torch  # isort: skip

loader = part("nodes.clip_vision_loader").VisionBridgeCLIPVisionLoader
client_errors = part("bridge_client")
EXPECTED = safetensors.torch.load_file(ROOT / "expected.safetensors")

CLIP = "CLIP-ViT-H-demo.safetensors"
SIGLIP = "siglip-tiny.safetensors"
NAMES = ("last_hidden_state", "penultimate_hidden_states", "image_embeds")


def load(name: str = CLIP, **options: str) -> object:
    """The CLIP_VISION of the loader node."""
    return asyncio.run(loader.execute(name, **options)).args[0]


class DropIn(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.bridge = Bridge().__enter__()
        cls.addClassCleanup(cls.bridge.__exit__)

    def test_model_gives_the_features_of_the_engine_to_the_last_bit(self) -> None:
        pixels = EXPECTED["clip.pixel_values"]
        out = load().model(pixel_values=pixels, intermediate_output=-2)
        self.assertIsNone(out[3])
        for name, tensor in zip(("last_hidden_state", "penultimate_hidden_states", "image_embeds"), out):
            self.assertEqual(tensor.dtype, torch.float32)
            self.assertTrue(torch.equal(tensor, EXPECTED[f"clip.{name}"]), name)

    def test_encode_image_gives_the_features_of_the_engine(self) -> None:
        for crop in (True, False):
            output = load().encode_image(EXPECTED["image"], crop=crop)
            for name in NAMES:
                expected = EXPECTED[f"clip.{'center' if crop else 'none'}.{name}"]
                # Preparing a picture in torch and in the engine may differ in ties of rounding to 8 bits.
                self.assertLess((output[name] - expected).abs().max().item(), 5e-3, name)
                distance = 1 - torch.nn.functional.cosine_similarity(output[name].flatten(), expected.flatten(), dim=0)
                self.assertLess(distance.item(), 1e-6, name)
            self.assertIsNone(output.mm_projected)
            self.assertFalse(hasattr(output, "all_hidden_states"))

    def test_a_siglip_has_all_hidden_states_as_in_comfyui(self) -> None:
        encoder = load(SIGLIP)
        self.assertTrue(encoder.return_all_hidden_states)
        output = encoder.encode_image(EXPECTED["image"])
        self.assertEqual(output.all_hidden_states.dim(), 4)
        self.assertTrue(torch.equal(output.all_hidden_states[:, -2], output.penultimate_hidden_states))
        pixels = EXPECTED["siglip.pixel_values"]
        everything = encoder.model(pixel_values=pixels, intermediate_output="all")[1]
        self.assertTrue(torch.equal(everything, EXPECTED["siglip.all_hidden_states"]))
        for layer in range(everything.shape[1]):
            state = encoder.model(pixel_values=pixels, intermediate_output=layer)[1]
            self.assertTrue(torch.equal(state, everything[:, layer]))

    def test_layers_are_counted_from_either_end_and_others_are_refused(self) -> None:
        encoder = load()
        pixels = EXPECTED["clip.pixel_values"]
        for layer, name in (
            (-2, "penultimate_hidden_states"),
            (2, "penultimate_hidden_states"),
            (-1, "last_hidden_state"),
        ):
            state = encoder.model(pixel_values=pixels, intermediate_output=layer)[1]
            self.assertTrue(torch.equal(state, EXPECTED[f"clip.{name}"]), layer)
        self.assertIsNone(encoder.model(pixel_values=pixels)[1])
        if "all_hidden_states" not in encoder.handle["outputs"]:
            with self.assertRaisesRegex(client_errors.BridgeError, r"intermediate_output=-3 .* gives -2"):
                encoder.model(pixel_values=pixels, intermediate_output=-3)
        with self.assertRaises(client_errors.BridgeError):
            encoder.model(pixel_values=pixels, intermediate_output=99)

    def test_a_batch_is_sent_in_parts_and_comes_back_whole_and_in_order(self) -> None:
        encoder = load()
        pixels = torch.cat([EXPECTED["clip.pixel_values"] * (1 + i / 10) for i in range(9)])
        whole = encoder.model(pixel_values=pixels, intermediate_output=-2)
        for i in (0, 7, 8, 17):
            one = encoder.model(pixel_values=pixels[i : i + 1], intermediate_output=-2)
            for a, b in zip(whole[:3], one[:3]):
                self.assertTrue(torch.equal(a[i : i + 1], b))

    def test_half_precision_alpha_and_strides_are_taken(self) -> None:
        encoder = load()
        image = EXPECTED["image"]
        with_alpha = torch.cat([image, torch.rand_like(image[..., :1])], dim=-1)
        strided = image.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
        plain = encoder.encode_image(image).image_embeds
        self.assertTrue(torch.equal(encoder.encode_image(with_alpha).image_embeds, plain))
        self.assertTrue(torch.equal(encoder.encode_image(strided).image_embeds, plain))
        halved = encoder.model(pixel_values=EXPECTED["clip.pixel_values"].half())[2]
        self.assertEqual(halved.dtype, torch.float32)

    def test_copies_are_the_same_encoder_and_hold_nothing(self) -> None:
        encoder = load()
        pixels = EXPECTED["clip.pixel_values"]
        expected = EXPECTED["clip.image_embeds"]
        twins = [copy.copy(encoder), copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))]  # noqa: S301
        for twin in twins:
            comfy.model_management.load_model_gpu(twin.patcher)
            self.assertTrue(torch.equal(twin.model(pixel_values=pixels)[2], expected))
            self.assertEqual(twin.patcher.model_size(), 0)
            self.assertEqual(list(twin.model.parameters()), [])
        network = copy.deepcopy(encoder.model).to("cpu").half()
        self.assertTrue(torch.equal(network(pixel_values=pixels)[2], expected))
        comfy.model_management.unload_all_models()  # what /free does
        self.assertTrue(torch.equal(encoder.model(pixel_values=pixels)[2], expected))
        self.assertEqual((encoder.load_device.type, encoder.image_size), ("cpu", 224))

    def test_the_unified_loader_of_ipadapter_plus_finds_the_encoder_under_its_own_path(self) -> None:
        encoder, pipeline = asyncio.run(loader.execute(CLIP)).args
        self.assertIs(pipeline["clipvision"]["model"], encoder)
        self.assertEqual(pipeline["clipvision"]["file"], str(ROOT / "models" / "clip_vision" / CLIP))

    def test_errors_carry_code_and_advice(self) -> None:
        with self.assertRaisesRegex(client_errors.BridgeError, r"\[INVALID_REQUEST\].*no choice"):
            load("none.safetensors")
        encoder = load()
        encoder.model.handle = {**encoder.handle, "name": "none.safetensors"}
        with self.assertRaisesRegex(client_errors.BridgeError, r"\[MODEL_NOT_FOUND\][\s\S]*vision-bridge paths"):
            encoder.model(pixel_values=EXPECTED["clip.pixel_values"])
        with self.assertRaisesRegex(client_errors.BridgeError, r"takes pixel values \[B, 3, 224, 224\]"):
            load().model(pixel_values=torch.zeros(1, 3, 64, 64))

    def test_an_interrupt_cancels_the_work_in_the_bridge(self) -> None:
        encoder = load()
        # All different: pictures that are known already are not encoded again.
        pixels = EXPECTED["clip.pixel_values"].repeat(400, 1, 1, 1)
        pixels += torch.arange(len(pixels)).reshape(-1, 1, 1, 1) * 1e-4

        def interrupt_soon() -> None:
            while self.bridge.health()["inference"]["pending"] == 0:
                time.sleep(0.005)
            comfy.model_management.interrupt_current_processing(True)

        thread = threading.Thread(target=interrupt_soon)
        thread.start()
        begun = time.monotonic()
        with self.assertRaises(comfy.model_management.InterruptProcessingException):
            encoder.model(pixel_values=pixels)
        thread.join()
        self.assertLess(time.monotonic() - begun, 5)
        self.bridge.wait_idle()
        again = encoder.model(pixel_values=EXPECTED["clip.pixel_values"])[2]
        self.assertTrue(torch.equal(again, EXPECTED["clip.image_embeds"]))

    def test_a_bridge_that_is_killed_and_started_again_in_the_middle_costs_only_time(self) -> None:
        encoder = load()
        pixels = EXPECTED["clip.pixel_values"].repeat(40, 1, 1, 1)
        results: list[torch.Tensor] = []
        thread = threading.Thread(target=lambda: results.append(encoder.model(pixel_values=pixels)[2]))
        thread.start()
        while self.bridge.health()["inference"]["pending"] == 0:
            time.sleep(0.005)
        self.bridge.kill()
        self.bridge.start()
        thread.join(60)
        self.assertTrue(torch.equal(results[0], EXPECTED["clip.image_embeds"].repeat(40, 1)))
        # And between two calls.
        self.bridge.kill()
        self.bridge.start()
        self.assertTrue(torch.equal(encoder.model(pixel_values=pixels[:2])[2], EXPECTED["clip.image_embeds"]))


if __name__ == "__main__":
    unittest.main()
