/** Parameters of a request's address, checked: one that is not known is a mistake that would go unnoticed. */
import type { FastifyRequest } from 'fastify';
import type * as z from 'zod';
import { InvalidRequestError } from '../common/errors.js';
import { nearNames, problemsOf } from '../common/problems.js';

/** The guard's, on every route. */
const TOKEN = 'token';

/** @throws {InvalidRequestError} naming every parameter that is wrong or unknown */
export function parseQuery<S extends z.ZodRawShape>(
  schema: z.ZodObject<S>,
  request: FastifyRequest,
): z.output<z.ZodObject<S>> {
  const given = request.query as Readonly<Record<string, unknown>>;
  const known = Object.keys(schema.shape);
  const unknown = Object.keys(given).filter((name) => name !== TOKEN && !known.includes(name));
  const problems = unknown.map((name) => {
    const [meant] = nearNames(name, known);
    return `there is no parameter "${name}"; ${meant === undefined ? `known are ${known.join(', ')}` : `did you mean ${meant}?`}`;
  });
  const parsed = schema.safeParse(given);
  if (!parsed.success) problems.push(...problemsOf(parsed.error));
  if (parsed.success && problems.length === 0) return parsed.data;
  throw new InvalidRequestError(problems.join('; '));
}
