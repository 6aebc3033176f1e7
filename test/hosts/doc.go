// Package hosts makes real Debian hosts on one machine, for tests that must see
// the true thing: systemd as PID 1, D-Bus, avahi, apt, a bridge, power cuts.
//
// A host is a systemd-nspawn container over one shared base image (debootstrap,
// once) with a writable overlay on the machine's disk. All hosts of a [Lab] hang
// on one bridge, 10.77.0.0/24, that lives in a network namespace of its own and
// has no way out. A test reads like this:
//
//	lab := hosts.NewLab(t, hosts.Options{})
//	h := lab.AddHosts("n1", "n2", "n3", "n4")
//	lab.Boot(ctx)
//	h[0].PowerCut()
//
// It needs root and Debian's debootstrap and systemd-container; [Ensure] installs
// them, or says in a [SkipError] why it cannot.
//
// # What is where
//
//   - ensure.go: tools and the base image; kubebuild.go: the Kubernetes binaries
//   - reserve.go: whose turn it is, of the processes on this machine
//   - lab.go, anchor.sh: the lab, its mount namespace, cgroups, leftovers
//   - net.go: bridge, cables, partitions, dialling from inside
//   - host.go, exec.go: one host: power, freezing, commands, files, journals
//   - kube.go: kine and kube-apiserver as units, and their certificates; loopback.go: one without hosts
//   - audit.go: who ran which unit when, seen from outside on one clock
//
// # How it stays out of the machine's way
//
// A lab's mounts, its /run/netns and its view of cgroup2 are in the mount
// namespace of one small process, the anchor. The anchor reads a pipe from the test:
// when the test ends, however it ends, the anchor kills the lab's cgroup and goes,
// and with it the mounts and networks. Whatever is left by a killed anchor carries
// the prefix "rlv-" and is swept away by the next lab. One process at a time has one on a
// machine; a second waits for the end of the first.
//
// # What is not real
//
// The hosts share the machine's kernel, so its page cache outlives a power cut:
// what was written and not yet synced is still there after it. A test that wants
// to see such data lost has to lose it itself. The clocks are the machine's, too,
// and a frozen host's kernel still answers ping and ARP.
package hosts
