/** What stops an injection: bad input, said in one sentence with the field. */

export class InjectError extends Error {
  override name = 'InjectError';
}
