/** The command line's entry: one file a command, loaded when asked for. */
import { Command, CommanderError } from 'commander';
import { runCommandOptions } from '../config/options.ts';
import { analyzeCommand } from './analyze.ts';
import { authzCommand } from './authz-check.ts';
import { caCommand } from './ca.ts';
import { certsCommand } from './certs.ts';
import { demoCommand } from './demo.ts';
import { describeCommand } from './describe.ts';
import { handshakesCommand } from './handshakes.ts';
import { injectCommand } from './inject.ts';
import { iptablesCommand } from './iptables.ts';
import { guardPeerCertificates } from './peer-certificates.ts';
import { keepMemoryPrivate } from './private-memory.ts';
import { dropPrivileges } from './privileges.ts';
import { probeCommand } from './probe.ts';
import { routeCommand } from './route.ts';
import { waitCommand } from './wait.ts';
import { webhookCommand } from './webhook.ts';

/** Exit status of bad usage and unreadable input (CLI.md). */
const BAD_USAGE = 2;

// Before any command has a key; `run` tells where it could not be done.
keepMemoryPrivate();
guardPeerCertificates();

const program = new Command('oarlock')
  .description('A sidecar proxy daemon: mutual TLS with SPIFFE identities, steered by Istio resources.')
  .version('0.1.0')
  .showSuggestionAfterError()
  .configureHelp({ showGlobalOptions: true });

program.addCommand(
  runCommandOptions().action(async (options: Record<string, unknown>) => {
    // First, as this may execute the process anew.
    await dropPrivileges();
    // The daemon's modules are loaded for `run` alone.
    const { run } = await import('./run.ts');
    await run(options);
  }),
);
program.addCommand(caCommand());
program.addCommand(certsCommand());
program.addCommand(handshakesCommand());
program.addCommand(injectCommand());
program.addCommand(iptablesCommand());
program.addCommand(analyzeCommand());
program.addCommand(authzCommand());
program.addCommand(describeCommand());
program.addCommand(demoCommand());
program.addCommand(probeCommand());
program.addCommand(routeCommand());
program.addCommand(waitCommand());
program.addCommand(webhookCommand());

function inherit(command: Command): void {
  command.exitOverride();
  for (const child of command.commands) inherit(child);
}
inherit(program);

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exit(error.exitCode === 0 ? 0 : BAD_USAGE);
  process.stderr.write(`oarlock: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(BAD_USAGE);
}
