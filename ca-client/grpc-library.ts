/** @grpc/grpc-js as one value: a bundler gives a CommonJS package's named members to static imports only. */
import * as library from '@grpc/grpc-js';

export const grpc = library;
