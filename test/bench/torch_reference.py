"""Encodes one picture with torch, for comparison: times and peak memory as one JSON line.

Arguments: MODEL.safetensors PIXELS.safetensors RUNS [COMFYUI_CHECKOUT | --cuda]. Without a checkout the encoder is
transformers' CLIPVisionModelWithProjection in fp32, on the CPU or the GPU; with one it is ComfyUI's own, on the CPU.
"""

import json
import resource
import statistics
import sys
import time


def main() -> None:
    model_path, pixels_path, runs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    last = sys.argv[4] if len(sys.argv) > 4 else None
    device = "cuda" if last == "--cuda" else "cpu"
    checkout = None if last == "--cuda" else last
    import torch
    from safetensors.torch import load_file

    pixels = load_file(pixels_path)["pixel_values"]
    started = time.perf_counter()
    if checkout is not None:
        sys.path.insert(0, checkout)
        sys.argv = ["main.py", "--cpu"]
        import comfy.options

        comfy.options.enable_args_parsing()
        import comfy.clip_vision

        loaded = comfy.clip_vision.load(model_path)

        def run():
            return loaded.model(pixel_values=pixels, intermediate_output=-2)[2]
    else:
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        config = CLIPVisionConfig(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120,
            patch_size=14, image_size=224, hidden_act="gelu", projection_dim=1024, layer_norm_eps=1e-5,
        )
        module = CLIPVisionModelWithProjection(config)
        module.load_state_dict(load_file(model_path), strict=False)
        module = module.float().eval().to(device)
        pixels = pixels.to(device)

        def run():
            # Back on the CPU: a GPU answers before it is done.
            return module(pixel_values=pixels, output_hidden_states=True).image_embeds.cpu()

    with torch.no_grad():
        embeds = run()
        load_and_first = time.perf_counter() - started
        times = []
        for _ in range(runs):
            begin = time.perf_counter()
            run()
            times.append(time.perf_counter() - begin)
    print(
        json.dumps(
            {
                "load_and_first_s": load_and_first,
                "encode_ms": statistics.median(times) * 1000,
                "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
                "embeds": embeds.flatten().tolist(),
            }
        )
    )


main()
