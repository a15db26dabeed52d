/** `oarlock demo`: a small mesh on one machine, kept running until stopped. */
import { Command, InvalidArgumentError } from 'commander';

/** The `demo` command, with the two processes it starts of its own as hidden commands. */
export function demoCommand(): Command {
  const demo = new Command('demo')
    .description('a small mesh on this machine: a CA, three apps, a sidecar beside each, steady traffic')
    .option('--json', 'print one line of JSON, once all is up, instead of text')
    .option('--keep', 'leave its folder (YAML, logs, CA) behind when it ends')
    .action(async (options: { json?: boolean; keep?: boolean }) => {
      const { runDemo } = await import('../demo/demo.ts');
      process.exitCode = await runDemo({ json: options.json === true, keep: options.keep === true });
    });
  const app = new Command('app')
    .description('one of its apps')
    .argument('<name>')
    .argument('<port>', 'where to listen', port)
    .option('--next <name port path...>', 'whom to ask before answering')
    .action(async (name: string, number: number, options: { next?: string[] }) => {
      const { runApp } = await import('../demo/app.ts');
      const [nextName, nextPort, path] = options.next ?? [];
      const next =
        nextName === undefined || nextPort === undefined || path === undefined
          ? null
          : { name: nextName, port: port(nextPort), path };
      runApp({ name, port: number, next });
    });
  const legacy = new Command('legacy')
    .description('its client outside the mesh')
    .argument('<port>', 'whom to call', port)
    .action(async (number: number) => {
      const { runLegacy } = await import('../demo/legacy.ts');
      runLegacy(number);
    });
  return demo.addCommand(app, { hidden: true }).addCommand(legacy, { hidden: true });
}

function port(text: string): number {
  const number = Number(text);
  if (/^\d{1,5}$/.test(text) && number > 0 && number < 65_536) return number;
  throw new InvalidArgumentError('It must be a port number.');
}
