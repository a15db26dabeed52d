/** Reads every resource under some folders and files. */
import { readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import { extname, sep } from 'node:path';
import type { Problem, Resource } from '../mesh/resource.ts';
import { findDuplicates, MAX_FILE_BYTES, parseDocuments } from './documents.ts';
import { problemOf } from './raw.ts';

export interface ResourceSet {
  readonly resources: readonly Resource[];
  readonly problems: readonly Problem[];
}

/** A file found, and the folders looked into on the way. */
export interface Listing {
  readonly files: readonly string[];
  readonly folders: readonly string[];
  readonly problems: readonly Problem[];
}

const EXTENSIONS = new Set(['.yaml', '.yml', '.json']);
/** Folders inside folders: deeper is a loop of links. */
const MAX_DEPTH = 32;

/** What to tell of a failed system call: `ENOENT: no such file or directory`. */
function systemReason(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split(', ')[0] ?? text;
}

/**
 * Lists the files to read under `paths`, each a folder or one file, in the order given and sorted inside a folder.
 * Names with a leading dot are left out: in a ConfigMap's mount they are the folders its links point into, so each
 * file is read once, by its link.
 */
export function listFiles(paths: readonly string[]): Listing {
  const listing = { files: [] as string[], folders: [] as string[], problems: [] as Problem[] };
  const seen = new Set<string>();
  for (const path of paths) {
    try {
      if (statSync(path).isDirectory()) listFolder(path, listing, seen, 0);
      else listing.files.push(path);
    } catch (error) {
      listing.problems.push(unreadable(path, systemReason(error)));
    }
  }
  return { ...listing, files: [...new Set(listing.files)] };
}

function listFolder(
  folder: string,
  listing: { files: string[]; folders: string[]; problems: Problem[] },
  seen: Set<string>,
  depth: number,
): void {
  try {
    const real = realpathSync(folder);
    // A link back to a parent: read once.
    if (seen.has(real) || depth > MAX_DEPTH) return;
    seen.add(real);
    listing.folders.push(folder);
    for (const name of readdirSync(folder).sort()) {
      if (name.startsWith('.')) continue;
      const path = inFolder(folder, name);
      const stat = statSync(path, { throwIfNoEntry: false });
      const wanted = EXTENSIONS.has(extname(name).toLowerCase());
      if (stat?.isDirectory()) listFolder(path, listing, seen, depth + 1);
      else if (stat?.isFile() && wanted) listing.files.push(path);
      // A dangling link with our extension: a file somebody means to be read.
      else if (stat === undefined && wanted) {
        listing.problems.push(unreadable(path, 'ENOENT: the link leads nowhere'));
      }
    }
  } catch (error) {
    listing.problems.push(unreadable(folder, systemReason(error)));
  }
}

/** A path as its reader knows it: `./mesh` stays `./mesh`, which `join` would shorten. */
function inFolder(folder: string, name: string): string {
  return folder.endsWith(sep) ? folder + name : folder + sep + name;
}

function unreadable(file: string, message: string): Problem {
  return problemOf({ file, line: 1, code: 'unreadable', message });
}

/** The files as they were at one moment, not yet understood. */
export interface Contents {
  readonly files: readonly FileContent[];
  /** What could not be listed. */
  readonly problems: readonly Problem[];
}

export type FileContent = { readonly file: string } & (
  | { readonly text: string }
  | { readonly reason: string }
);

function readText(file: string): FileContent {
  try {
    const { size } = statSync(file);
    if (size > MAX_FILE_BYTES) {
      return { file, reason: `${size} bytes are more than the ${MAX_FILE_BYTES} a file may have` };
    }
    return { file, text: new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(file)) };
  } catch (error) {
    return { file, reason: systemReason(error) };
  }
}

/** Reads the text of every file under `paths`. Nothing is thrown. */
export function readContents(paths: readonly string[]): Contents {
  const listing = listFiles(paths);
  return { files: listing.files.map(readText), problems: listing.problems };
}

/** Contents → resources in a fixed order, with every problem of every file. */
export function parseContents(contents: Contents): ResourceSet {
  const resources: Resource[] = [];
  const problems: Problem[] = [...contents.problems];
  for (const content of contents.files) {
    if ('reason' in content) {
      problems.push(unreadable(content.file, content.reason));
      continue;
    }
    const documents = parseDocuments(content.text, content.file);
    resources.push(...documents.resources);
    problems.push(...documents.problems);
  }
  problems.push(...findDuplicates(resources));
  return { resources, problems };
}

/**
 * Reads all resources under `paths` (folders or files).
 * @returns them in a fixed order; what cannot be read is an Error among the problems, never thrown
 */
export function readFolders(paths: readonly string[]): ResourceSet {
  return parseContents(readContents(paths));
}
