/** Says what a file is that is no vision encoder, so that the message helps. From keys alone, for messages alone. */

/** First match wins; a pattern is tried on every tensor name. */
const SIGNS: readonly (readonly [RegExp, string])[] = [
  [/\.(lora_(down|up|A|B|a|b)|lora_magnitude_vector|hada_w1_a|lokr_w1)\b/, 'it is a LoRA'],
  [/^ip_adapter\.|^image_proj\./, 'it is an IP-Adapter; its encoder is a file of its own'],
  [/^(model\.diffusion_model|diffusion_model)\./, 'it is a full checkpoint or a diffusion model'],
  [/^(double_blocks|single_blocks|transformer_blocks|joint_blocks)\./, 'it is a diffusion model'],
  [/^(control_model|controlnet_blocks|controlnet_down_blocks)\b/, 'it is a ControlNet'],
  [/^(first_stage_model\.)?(encoder|decoder)\.(down|up|mid|conv_in|down_blocks|up_blocks|mid_block)\b/, 'it is a VAE'],
  [/^(vision_tower|model\.vision_tower)\./, 'its encoder has the prefix "vision_tower.", which ComfyUI does not strip'],
  [/^vision_model\.|^visual\./, 'it has vision layers, but not in a depth or width that ComfyUI knows'],
  [/^(text_model|transformer\.text_model|text_encoder|shared|encoder\.block|model\.layers)\b/, 'it is a text encoder'],
];

/** A clause such as `it is a LoRA`. */
export function describeForeignModel(tensors: ReadonlyMap<string, unknown>): string {
  for (const [pattern, meaning] of SIGNS) {
    for (const name of tensors.keys()) {
      if (pattern.test(name)) return meaning;
    }
  }
  const first = [...tensors.keys()].slice(0, 3);
  return first.length === 0 ? 'it holds no tensors' : `its keys (${first.join(', ')}, …) belong to no known family`;
}
