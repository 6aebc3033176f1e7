package health

import "bytes"

// readMemoryCgroup asks whether control groups can limit memory. Newer kernels leave
// the second version's controllers out of /proc/cgroups, so the first source wins.
func readMemoryCgroup(f *files) Truth {
	if b, err := f.read("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		for w, rest := field(bytes.TrimSpace(b)); len(w) > 0; w, rest = field(rest) {
			if string(w) == "memory" {
				return Yes
			}
		}
		return No
	}
	b, err := f.read("/proc/cgroups")
	if err != nil {
		return Maybe
	}
	var l []byte
	for len(b) > 0 {
		l, b = line(b)
		if name, rest := field(l); string(name) == "memory" {
			var n [3]float64 // hierarchy, groups, enabled
			if numbers(rest, n[:]) == 3 {
				return TruthOf(n[2] == 1)
			}
		}
	}
	return Maybe
}
