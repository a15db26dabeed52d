/** The command line's entry: one file a command, loaded when asked for. */
import { Command, CommanderError } from 'commander';
import { guardPeerCertificates } from './peer-certificates.ts';
import { keepMemoryPrivate } from './private-memory.ts';
import { forgetServiceLinks } from './service-links.ts';

/** Exit status of bad usage and unreadable input (CLI.md). */
const BAD_USAGE = 2;

/** A command starts without the others' modules: an app may wait for `run`, and `probe` runs every few seconds. */
const commands = new Map<string, () => Promise<Command>>(
  Object.entries({
    run: runCommand,
    ca: async () => (await import('./ca.ts')).caCommand(),
    certs: async () => (await import('./certs.ts')).certsCommand(),
    handshakes: async () => (await import('./handshakes.ts')).handshakesCommand(),
    inject: async () => (await import('./inject.ts')).injectCommand(),
    iptables: async () => (await import('./iptables.ts')).iptablesCommand(),
    analyze: async () => (await import('./analyze.ts')).analyzeCommand(),
    authz: async () => (await import('./authz-check.ts')).authzCommand(),
    describe: async () => (await import('./describe.ts')).describeCommand(),
    demo: async () => (await import('./demo.ts')).demoCommand(),
    probe: async () => (await import('./probe.ts')).probeCommand(),
    route: async () => (await import('./route.ts')).routeCommand(),
    wait: async () => (await import('./wait.ts')).waitCommand(),
    webhook: async () => (await import('./webhook.ts')).webhookCommand(),
  }),
);

// Before any command has a key; `run` tells where it could not be done.
keepMemoryPrivate();
guardPeerCertificates();
forgetServiceLinks();

const program = new Command('oarlock')
  .description('A sidecar proxy daemon: mutual TLS with SPIFFE identities, steered by Istio resources.')
  .version('0.1.0')
  .showSuggestionAfterError()
  .configureHelp({ showGlobalOptions: true });

// For all else (help, a name mistyped) every command is there.
const asked = commands.get(process.argv[2] ?? '');
for (const make of asked === undefined ? commands.values() : [asked]) program.addCommand(await make());

async function runCommand(): Promise<Command> {
  const { runCommandOptions } = await import('../config/options.ts');
  return runCommandOptions().action(async (options: Record<string, unknown>) => {
    const { dropPrivileges } = await import('./privileges.ts');
    // First, as this may execute the process anew.
    await dropPrivileges();
    const { run } = await import('./run.ts');
    await run(options);
  });
}

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
