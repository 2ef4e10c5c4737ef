/** `/api/jobs`: queue and history as one list, and cancelling. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { PromptQueue } from '../../graph/index.js';
import {
  endedJob,
  JOB_STATUSES,
  jobDetailJson,
  jobDuration,
  jobJson,
  jobWorkflowId,
  type Job,
  type JobStatus,
} from '../../protocol/jobs.js';
import { isJsonObject, type JsonValue } from '../../protocol/json.js';
import { isCanonicalUuid } from '../../protocol/prompt.js';
import type { ServerContext } from '../context.js';
import { pathText, queryText, readJsonBody, sendJson } from '../reply.js';

interface JobQuery {
  readonly statuses: ReadonlySet<JobStatus>;
  readonly workflowId: string | undefined;
  readonly isByDuration: boolean;
  readonly isAscending: boolean;
  readonly limit: number | undefined;
  readonly offset: number;
}

export function registerJobRoutes(app: FastifyInstance, { bridge: { queue } }: ServerContext, prefix: string): void {
  const refuse = (reply: FastifyReply, error: string, more: Readonly<Record<string, JsonValue>> = {}): FastifyReply =>
    sendJson(reply.status(400), { error, ...more });

  app.get(`${prefix}/jobs`, (request, reply) => {
    const query = readQuery(request);
    if (typeof query === 'string') return refuse(reply, query);
    const { statuses, workflowId, isByDuration, isAscending, limit, offset } = query;
    const jobs = allJobs(queue).filter(
      (job) => statuses.has(job.status) && (workflowId === undefined || jobWorkflowId(job) === workflowId),
    );
    const keyOf = (job: Job): number => (isByDuration ? (jobDuration(job) ?? 0) : job.item.createdMs);
    jobs.sort((a, b) => (isAscending ? keyOf(a) - keyOf(b) : keyOf(b) - keyOf(a)));
    const shown = jobs.slice(offset, limit === undefined ? undefined : offset + limit);
    return sendJson(reply, {
      jobs: shown.map(jobJson),
      pagination: {
        offset,
        limit: limit ?? null,
        total: jobs.length,
        has_more: offset + shown.length < jobs.length,
      },
    });
  });

  app.get(`${prefix}/jobs/:id`, (request, reply) => {
    const id = pathText(request, 'id');
    const job = allJobs(queue).find(({ item }) => item.promptId === id);
    return job === undefined
      ? sendJson(reply.status(404), { error: 'Job not found' })
      : sendJson(reply, jobDetailJson(job));
  });

  app.post(`${prefix}/jobs/:id/cancel`, (request, reply) =>
    sendJson(reply, { cancelled: queue.cancel([pathText(request, 'id')]) }),
  );

  app.post(`${prefix}/jobs/cancel`, (request, reply) => {
    let body: JsonValue;
    try {
      body = readJsonBody(request);
    } catch {
      return refuse(reply, 'Request body must be valid JSON');
    }
    const ids = isJsonObject(body) ? body.get('job_ids') : undefined;
    if (!Array.isArray(ids)) return refuse(reply, 'job_ids must be a list');
    const given = ids as readonly JsonValue[];
    const valid = given.filter((id) => typeof id === 'string' && isCanonicalUuid(id));
    if (valid.length < given.length) {
      const invalid = given.filter((id) => !valid.includes(id));
      return refuse(reply, 'job_ids contains invalid id(s)', { invalid_ids: invalid });
    }
    return sendJson(reply, { cancelled: queue.cancel(valid as string[]) });
  });
}

function allJobs(queue: PromptQueue): Job[] {
  const running: Job[] = queue.running === undefined ? [] : [{ status: 'in_progress', item: queue.running }];
  const pending = queue.pending.map((item): Job => ({ status: 'pending', item }));
  return [...running, ...pending, ...[...queue.history().values()].map(endedJob)];
}

/** The query, or what is wrong with it in ComfyUI's words. */
function readQuery(request: FastifyRequest): JobQuery | string {
  const named = (queryText(request, 'status') ?? '')
    .split(',')
    .map((name) => name.trim().toLowerCase())
    .filter((name) => name !== '');
  const wrong = named.filter((name) => !isJobStatus(name));
  if (wrong.length > 0) return `Invalid status value(s): ${wrong.join(', ')}. Valid values: ${JOB_STATUSES.join(', ')}`;
  const sortBy = queryText(request, 'sort_by') ?? 'created_at';
  if (sortBy !== 'created_at' && sortBy !== 'execution_duration')
    return "sort_by must be 'created_at' or 'execution_duration'";
  const sortOrder = queryText(request, 'sort_order') ?? 'desc';
  if (sortOrder !== 'asc' && sortOrder !== 'desc') return "sort_order must be 'asc' or 'desc'";
  const limit = wholeNumber(queryText(request, 'limit'));
  if (Number.isNaN(limit)) return 'limit must be an integer';
  if (limit !== undefined && limit < 1) return 'limit must be a positive integer';
  const offset = wholeNumber(queryText(request, 'offset'));
  if (Number.isNaN(offset)) return 'offset must be an integer';
  return {
    statuses: new Set(named.length === 0 ? JOB_STATUSES : named.filter(isJobStatus)),
    workflowId: queryText(request, 'workflow_id'),
    isByDuration: sortBy === 'execution_duration',
    isAscending: sortOrder === 'asc',
    limit,
    offset: Math.max(0, offset ?? 0),
  };
}

function isJobStatus(name: string): name is JobStatus {
  return (JOB_STATUSES as readonly string[]).includes(name);
}

function wholeNumber(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  return /^[-+]?\d+$/.test(text.trim()) ? Number(text) : Number.NaN;
}
