package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// ErrOwner says that this process may not give a file to its owner.
var ErrOwner = errors.New("relevo.service may not give files to others than root: allow it with `systemctl edit relevo.service`, as docs/unit.md shows under Owners")

// GiveTo makes uid and gid the owner of path, of a link itself, if they are not.
func GiveTo(path string, uid, gid int) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	return NotOwner(path, uid, gid, os.Lchown(path, uid, gid))
}

// NotOwner explains the error of a chown; where root is not asked to do it (in a test) it
// is none.
func NotOwner(path string, uid, gid int, err error) error {
	switch {
	case err == nil || os.Geteuid() != 0:
		return nil
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%s belongs to uid %d, gid %d: %w", path, uid, gid, ErrOwner)
	}
	return err
}
