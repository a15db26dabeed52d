/** The list of all checks of services, endpoints and client settings. */
import { duplicateRules, hiddenRules, ruleHosts, settingPorts, subsets } from './destination-rules.ts';
import { providerServices } from './providers.ts';
import { anyIdentity } from './secure-naming.ts';
import {
  accounts,
  portProtocols,
  protocols,
  sameHosts,
  selectors,
  withoutEndpoints,
  workloadPorts,
} from './services.ts';
import type { RegistryCheck } from './set.ts';
import { egressHosts, sidecarConflicts } from './sidecars.ts';
import { autoMtls, doubleTls, modesAgainstServers, outsiders, verification } from './tls.ts';
import { tunnelLabels, tunnelPorts, tunnelsOff } from './tunnels.ts';

export const registryChecks: readonly RegistryCheck[] = [
  selectors,
  ruleHosts,
  subsets,
  settingPorts,
  duplicateRules,
  hiddenRules,
  modesAgainstServers,
  autoMtls,
  outsiders,
  verification,
  doubleTls,
  tunnelsOff,
  anyIdentity,
  providerServices,
  sameHosts,
  protocols,
  portProtocols,
  withoutEndpoints,
  accounts,
  workloadPorts,
  tunnelLabels,
  tunnelPorts,
  sidecarConflicts,
  egressHosts,
];
