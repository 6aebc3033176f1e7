//go:build e2e

package e2e

import "testing"

// Tests that share a cluster, in the order in which they have it. Each waits until it is in
// order, whoever is the master then, and has audits of its own.

func TestSwitchover(t *testing.T)         { switchovers(t, standing(t, common)) }
func TestFailover(t *testing.T)           { failover(t, standing(t, common)) }
func TestKubernetesServices(t *testing.T) { kubernetesServices(t, standing(t, common)) }
func TestReplica(t *testing.T)            { replica(t, standing(t, common)) }
func TestRotate(t *testing.T)             { rotate(t, standing(t, common)) }
func TestRename(t *testing.T)             { renames(t, standing(t, common)) }
func TestFreeze(t *testing.T)             { freeze(t, standing(t, common)) }
func TestBlackout(t *testing.T)           { blackout(t, standing(t, common)) }
func TestNetwork(t *testing.T)            { network(t, standing(t, common)) }
func TestNemesis(t *testing.T)            { someFaults(t) }

// TestPackage ends with hosts that have no relevo.
func TestPackage(t *testing.T) {
	packages(t, standing(t, common))
	ok(t, closeKept())
}
