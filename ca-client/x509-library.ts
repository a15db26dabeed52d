/** @peculiar/x509 as one value: a bundler gives a CommonJS package's named members to static imports only. */
import * as library from '@peculiar/x509';

export const x509 = library;
