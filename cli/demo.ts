/** `oarlock demo`: a small mesh on one machine, kept running until stopped. */
import { Command } from 'commander';

export function demoCommand(): Command {
  return new Command('demo');
}
