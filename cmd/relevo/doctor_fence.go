package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkFence looks whether the program of fence.command could be run by root without
// running somebody else's: it, and every folder above it, may be written by root alone.
func checkFence(command []string) finding {
	f := finding{Check: "fence device", Result: resultOK}
	if len(command) == 0 {
		f.What = "none: the lease of a lost master is waited for"
		return f
	}
	wrong := func(format string, args ...any) finding {
		return finding{f.Check, resultWrong, fmt.Sprintf(format, args...), "until that is mended the lease of a lost master is waited for"}
	}
	path := command[0]
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return wrong("fence.command: %v", err)
	case !st.Mode().IsRegular() || st.Mode()&0o111 == 0:
		return wrong("fence.command: %s is no program (%v)", path, st.Mode())
	}
	for p := path; ; p = filepath.Dir(p) {
		st, err := os.Stat(p)
		if err != nil {
			return wrong("fence.command: %v", err)
		}
		if who := writableBy(st); who != "" {
			return finding{f.Check, resultWrong, fmt.Sprintf("%s, which the agent runs as root, can be replaced: %s may be written by %s", path, p, who),
				"make root its owner, and let nobody else write: chown root:root and chmod go-w"}
		}
		if p == filepath.Dir(p) {
			break
		}
	}
	f.What = path + "; whether it switches off and confirms only you can try"
	return f
}

// writableBy says who but root may write, "" if nobody. A sticky folder such as /tmp is
// everybody's too.
func writableBy(st fs.FileInfo) string {
	switch sys, ok := st.Sys().(*syscall.Stat_t); {
	case st.Mode()&0o002 != 0:
		return "everybody"
	case ok && st.Mode()&0o020 != 0 && sys.Gid != 0:
		return fmt.Sprintf("the group %d", sys.Gid)
	case ok && sys.Uid != 0:
		return fmt.Sprintf("the user %d", sys.Uid)
	}
	return ""
}
