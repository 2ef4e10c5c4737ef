/**
 * IP-Adapters and embeds in node calls.
 *
 * An adapter is a handle: the names of its file, of the encoder and of the face networks, which are opened again by every
 * call. Embeds are tensors, `cond.image`, `cond.face`, `uncond.image`, `uncond.face`, with their provenance as JSON.
 */
import { isAbsolute } from 'node:path';
import * as z from 'zod';
import {
  adapterSummary,
  embedsFromTensors,
  embedsTensors,
  EMBEDS_TENSORS,
  type IPAdapterEmbeds,
} from '../adapter/index.js';
import { InvalidRequestError } from '../common/errors.js';
import { toPlain } from '../protocol/json.js';
import { EMBEDS, IPADAPTER, openIPAdapter, type LoadedIPAdapter } from './ipadapter-values.js';
import { checkIdentity, expectKind, fileIdentity, type Codec } from './wire-codec.js';

const FOLDER = 'ipadapter';
const name = z
  .string()
  .min(1)
  .max(4096)
  .refine((text) => !isAbsolute(text));

const handleSchema = z.object({
  kind: z.literal('ipadapter'),
  folder: z.literal(FOLDER),
  name,
  identity: z.string().max(200).optional(),
  encoder_name: name.nullish(),
  face_pack: name.nullish(),
});

export const ipadapterCodec: Codec = {
  async decode(value, _tensors, { ipadapter, vision }): Promise<LoadedIPAdapter> {
    const handle = handleSchema.safeParse(toPlain(value));
    if (!handle.success) {
      throw new InvalidRequestError(
        `A ${IPADAPTER} is a handle {kind: "ipadapter", folder: "ipadapter", name, identity, encoder_name, face_pack}; names are relative to their folders.`,
      );
    }
    const { name: file, identity, encoder_name: encoderName, face_pack: facePack } = handle.data;
    const names = { name: file, encoderName: encoderName ?? undefined, facePack: facePack ?? undefined };
    const loaded = await openIPAdapter(ipadapter, vision, names);
    await checkIdentity(loaded.adapter.path, identity, { folder: FOLDER, name: file });
    return loaded;
  },
  async encode(value) {
    const { name: file, adapter, encoderName, faces } = value as LoadedIPAdapter;
    const { variant, label, base_model, tokens, context_width, layers } = adapterSummary(adapter);
    const handle = {
      kind: 'ipadapter',
      folder: FOLDER,
      name: file,
      identity: await fileIdentity(adapter.path),
      encoder_name: encoderName ?? null,
      face_pack: faces?.name ?? null,
    };
    return { value: { ...handle, variant, label, base_model, tokens, context_width, layers } };
  },
};

export const embedsCodec: Codec = {
  decode(value, tensors): IPAdapterEmbeds {
    expectKind(value, 'ipadapter_embeds');
    const stray = [...tensors.keys()].find((tensor) => !EMBEDS_TENSORS.some((known) => known === tensor));
    if (stray !== undefined) throw new InvalidRequestError(`embeds have no tensor ${JSON.stringify(stray)}.`);
    return embedsFromTensors(tensors, toPlain(value.get('provenance') ?? null), `The value of type ${EMBEDS}`);
  },
  encode(value) {
    const embeds = value as IPAdapterEmbeds;
    const { adapter, encoder, images, settings } = embeds.provenance;
    const origin = { ...(adapter && { adapter: { ...adapter } }), ...(encoder && { encoder: { ...encoder } }) };
    const provenance = { ...origin, images, settings: { ...settings } };
    return { value: { kind: 'ipadapter_embeds', provenance }, tensors: embedsTensors(embeds) };
  },
};
