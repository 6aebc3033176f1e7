package files

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"relevo.dev/relevo/agent/durable"
)

// Installed says what Install did.
type Installed struct {
	Digest  string
	Written int // files and links put in place
	Same    int // those that were right already
}

// Install puts the mirrored identity in dir in its place on this host, with
// owner, mode and atomic rename. Nothing is touched unless the mirror is whole.
// What it replaces is kept below <dir>-aside/, where the first version ever
// replaced stays: it may be the only copy of this host's own. Files that the
// master has not are left alone. It may be called again at any time.
func Install(ctx context.Context, dir string, roots []string) (Installed, error) {
	man, err := load(dir, roots)
	if err != nil {
		return Installed{}, fmt.Errorf("install the identity: %w", err)
	}
	done := Installed{Digest: man.Digest}
	all := man.Entries
	for _, k := range man.Kept { // what the master lost by accident, perhaps
		all = append(all, k.Entry)
	}
	for i := range all {
		if err := ctx.Err(); err != nil {
			return done, fmt.Errorf("install the identity: %w", err)
		}
		wrote, err := install(dir, &all[i], rootOf(all[i].Path, roots))
		if err != nil {
			return done, fmt.Errorf("install %s: %w", all[i].Path, err)
		}
		if wrote {
			done.Written++
		} else if all[i].Kind != KindDir {
			done.Same++
		}
	}
	return done, nil
}

// install puts one entry in place. All of it happens inside os.Root of the
// folder above the configured root, so that no link on the way leads out.
func install(dir string, e *Entry, root string) (wrote bool, err error) {
	above := filepath.Dir(root)
	if err := os.MkdirAll(above, 0o755); err != nil {
		return false, err
	}
	r, err := os.OpenRoot(above)
	if err != nil {
		return false, err
	}
	defer r.Close()
	rel, err := filepath.Rel(above, e.Path)
	if err != nil {
		return false, err
	}
	uid, gid := owner(e)
	mode := fs.FileMode(e.Mode)
	if e.Kind == KindDir {
		if err := r.MkdirAll(rel, 0o700); err != nil {
			return false, err
		}
		return false, own(r, rel, uid, gid, mode)
	}
	if err := r.MkdirAll(filepath.Dir(rel), 0o755); err != nil {
		return false, err
	}
	same, err := same(r, rel, e, uid, gid)
	if err != nil || same {
		return false, err
	}
	if err := keepOld(dir, e.Path, r, rel); err != nil {
		return false, err
	}
	// A dot in front: kubelet and others read whole folders.
	tmp := filepath.Join(filepath.Dir(rel), "."+filepath.Base(rel)+".relevo-new")
	if err := r.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if e.Kind == KindLink {
		if err := r.Symlink(e.Target, tmp); err != nil {
			return false, err
		}
		if err := give(r, tmp, e.Path, uid, gid); err != nil {
			return false, err
		}
	} else if err := place(dir, e, r, tmp, uid, gid, mode); err != nil {
		return false, err
	}
	if err := r.Rename(tmp, rel); err != nil {
		return false, err
	}
	return true, syncDir(filepath.Dir(e.Path))
}

// place writes the file beside its place: nobody but root can read it until it
// has its owner and mode.
func place(dir string, e *Entry, r *os.Root, tmp string, uid, gid int, mode fs.FileMode) error {
	data, err := os.ReadFile(blob(dir, e.SHA256))
	if err != nil {
		return err
	}
	f, err := r.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, give(r, tmp, e.Path, uid, gid))
	return errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
}

// same says whether the right thing is there already; a wrong owner or mode is
// corrected in place.
func same(r *os.Root, rel string, e *Entry, uid, gid int) (bool, error) {
	fi, err := r.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	switch {
	case fi.IsDir():
		return false, errors.New("a folder lies where a file belongs")
	case e.Kind == KindLink:
		if fi.Mode().Type() != fs.ModeSymlink {
			return false, nil
		}
		target, err := r.Readlink(rel)
		return err == nil && target == e.Target, err
	case !fi.Mode().IsRegular() || fi.Size() != e.Size:
		return false, nil
	}
	if sum, _, err := hashFile(e.Path); err != nil || sum != e.SHA256 {
		return false, err
	}
	return true, own(r, rel, uid, gid, fs.FileMode(e.Mode))
}

// give sets the owner where it differs: the agent's unit need not be allowed to where
// everything is root's. path is for people.
func give(r *os.Root, rel, path string, uid, gid int) error {
	fi, err := r.Lstat(rel)
	if err != nil {
		return err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) == uid && int(st.Gid) == gid {
		return nil
	}
	return durable.NotOwner(path, uid, gid, r.Lchown(rel, uid, gid))
}

// own sets owner and mode where they differ: nothing is written otherwise.
func own(r *os.Root, rel string, uid, gid int, mode fs.FileMode) error {
	fi, err := r.Stat(rel)
	if err != nil {
		return err
	}
	if err := give(r, rel, rel, uid, gid); err != nil {
		return err
	}
	if fi.Mode().Perm() != mode {
		return r.Chmod(rel, mode)
	}
	return nil
}

// owner maps the owner by name, else by number.
func owner(e *Entry) (uid, gid int) {
	uid, gid = e.UID, e.GID
	if e.User != "" {
		if u, err := user.Lookup(e.User); err == nil {
			if n, err := strconv.Atoi(u.Uid); err == nil {
				uid = n
			}
		}
	}
	if e.Group != "" {
		if g, err := user.LookupGroup(e.Group); err == nil {
			if n, err := strconv.Atoi(g.Gid); err == nil {
				gid = n
			}
		}
	}
	return uid, gid
}

// keepOld copies what is about to be replaced to <dir>-aside, once.
func keepOld(dir, path string, r *os.Root, rel string) error {
	to := filepath.Join(dir+"-aside", strings.TrimPrefix(path, "/"))
	if _, err := os.Lstat(to); err == nil {
		return nil
	}
	fi, err := r.Lstat(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if fi.Mode().Type() == fs.ModeSymlink {
		target, err := r.Readlink(rel)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if !fi.Mode().IsRegular() || fi.Size() > MaxFile {
		return fmt.Errorf("%s lies there and is no file of an identity; move it away", path)
	}
	data, err := r.ReadFile(rel)
	if err != nil {
		return err
	}
	return writeFile(to, data)
}
