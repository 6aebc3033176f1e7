package onboard

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// Finding is what is wrong with a board, or will be.
type Finding struct {
	Check string
	// Wrong: it fails when it is needed. Else it is a warning; OK: neither.
	OK, Wrong bool
	What, Do  string
}

// Board looks at what a board can be found wanting in without asking anybody: cheap enough
// to be done now and then. candidate says that it shall be able to run the control plane.
func Board(root string, candidate bool) []Finding {
	h := host(root)
	var out []Finding
	if candidate {
		f := Finding{Check: "board", OK: true, What: "large enough for a control plane"}
		if why := h.tooSmall(runtime.GOARCH); why != "" {
			f = Finding{Check: "board", Wrong: true, What: why, Do: "take `candidate:` out of its configuration: it can vote"}
		}
		out = append(out, f, h.memoryCgroup())
	}
	return append(out, h.swap(candidate))
}

// memoryCgroup: without it no kubelet starts. The firmware of a Raspberry Pi disables it.
func (h host) memoryCgroup() Finding {
	f := Finding{Check: "memory cgroup", OK: true, What: "there"}
	if strings.Contains(" "+strings.TrimSpace(string(h.read("sys/fs/cgroup/cgroup.controllers")))+" ", " memory ") {
		return f
	}
	for line := range lines(h.read("proc/cgroups")) {
		if w := strings.Fields(line); len(w) == 4 && w[0] == "memory" && w[3] == "1" {
			return f
		}
	}
	if len(h.read("proc/cgroups")) == 0 && len(h.read("sys/fs/cgroup/cgroup.controllers")) == 0 {
		return Finding{Check: "memory cgroup", What: "whether it is there cannot be seen"}
	}
	return Finding{Check: "memory cgroup", Wrong: true, What: "the kernel has none: kubelet and k3s do not start", Do: "add cgroup_enable=memory cgroup_memory=1 to the line in /boot/firmware/cmdline.txt, and reboot"}
}

// swap on an SD card wears it out, and a kubelet does not like it.
func (h host) swap(candidate bool) Finding {
	var on []string
	for line := range lines(h.read("proc/swaps")) {
		w := strings.Fields(line)
		if len(w) >= 5 && w[0] != "Filename" && !strings.Contains(w[0], "zram") {
			on = append(on, w[0])
		}
	}
	if len(on) == 0 {
		return Finding{Check: "swap", OK: true, What: "none on a disk"}
	}
	f := Finding{Check: "swap", What: strings.Join(on, ", ") + " wears the card out, and stalls everything when memory gets short", Do: "swapoff -a; then disable what makes it (dphys-swapfile, rpi-swap, /etc/fstab)"}
	if candidate {
		f.What += "; kubelet does not start with swap by default"
	}
	return f
}

// PowerSave judges what the driver of a wireless interface said: on means that the board
// sleeps between beacons and answers late, multicast most of all.
func PowerSave(ifname string, on bool, err error) Finding {
	f := Finding{Check: "Wi-Fi", OK: true, What: ifname + " does not sleep"}
	switch {
	case err != nil:
		return Finding{Check: "Wi-Fi", What: fmt.Sprintf("%s: whether it sleeps cannot be seen: %v", ifname, err), Do: "a cable is better for a master"}
	case on:
		return Finding{Check: "Wi-Fi", What: ifname + " sleeps between packets (power save): it answers late, and misses multicast", Do: "iw dev " + ifname + " set power_save off, at every boot (NetworkManager: wifi.powersave=2)"}
	}
	return f
}

// Wireless says whether an interface is one.
func Wireless(root, ifname string) bool {
	return host(root).there(filepath.Join("sys/class/net", ifname, "wireless"))
}

// Owners says who but root owns what the agent must read and put in place; "" = nobody.
func Owners(root string, paths ...string) string {
	for _, p := range paths {
		st, err := os.Lstat(filepath.Join(root, p))
		if err != nil {
			continue
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && sys.Uid != 0 {
			return p + " belongs to uid " + strconv.Itoa(int(sys.Uid))
		}
	}
	return ""
}
