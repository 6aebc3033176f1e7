// Package e2e looks at relevo as its users do: four real hosts (see package hosts),
// the .deb installed by apt, systemd, avahi, a real kube-apiserver on kine, and
// clients that go on working while a master is lost.
//
//   - cluster_test.go: a cluster as the README sets one up; deb_test.go: the package
//   - shared_test.go: the tests that share one, and their order; kept_test.go: how
//   - clients_test.go: a writer that remembers what was acknowledged; writers_test.go: many,
//     also of kine itself; informer_test.go: a client with a cache
//   - failover_test.go: the main job; blackout_test.go: power cut of everybody
//   - loss_test.go: at random moments under writes, what is lost; switchover_test.go: nothing
//   - fence_test.go: every way to lose the agent without losing the host
//   - kubernetes_test.go: Services of Kubernetes as avahi-browse on another host sees them
//   - orders_test.go: pause, step-down, failover, acknowledge, remove
//   - nemesis_test.go: faults in any order, and every audit after each; flood_test.go: one of
//     them, connections without end
//   - network_test.go: without avahi-daemon, and with a new address
//   - freeze_test.go: a host that stands still, and goes on after its lease was given away
//   - package_test.go: install, upgrade, purge
//   - bench_test.go, bench_idle_test.go: figures, with the build tag bench (`make bench`)
//
// The tests need root, and the build tag e2e; `make e2e` runs them.
package e2e
