/** Headers whose values let somebody in: no explanation and no log shows them. */

/** `authorization`, `cookie`, `x-api-key`, `x-auth-token`, `x-jwt-assertion` … */
const SECRET =
  /auth|cookie|key|token|jwt|assertion|bearer|secret|password|passwd|session|signature|credential/i;

/** @param name in any case; `:authority` is none */
export function isSecretHeader(name: string): boolean {
  return !name.startsWith(':') && SECRET.test(name);
}
