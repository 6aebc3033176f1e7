package files

import (
	"fmt"
	"os"
	"path/filepath"
)

// LayOut writes the mirrored identity below another folder, which is made: what belongs
// at /etc/x comes to <under>/etc/x. All of it is this process's alone (0600, folders
// 0700). For looking at it and trying it, not for using it.
func LayOut(dir string, roots []string, under string) error {
	man, err := load(dir, roots)
	if err != nil {
		return fmt.Errorf("lay out the identity: %w", err)
	}
	if err := os.MkdirAll(under, 0o700); err != nil {
		return fmt.Errorf("lay out the identity: %w", err)
	}
	r, err := os.OpenRoot(under)
	if err != nil {
		return fmt.Errorf("lay out the identity: %w", err)
	}
	defer r.Close()
	for i := range man.Entries {
		e := &man.Entries[i]
		rel := filepath.Clean(e.Path)[1:]
		parent := filepath.Dir(rel)
		if e.Kind == KindDir {
			parent = rel
		}
		err := r.MkdirAll(parent, 0o700)
		switch {
		case err != nil:
		case e.Kind == KindLink:
			err = r.Symlink(e.Target, rel)
		case e.Kind == KindFile:
			var data []byte
			if data, err = os.ReadFile(blob(dir, e.SHA256)); err == nil {
				err = r.WriteFile(rel, data, 0o600)
			}
		}
		if err != nil {
			return fmt.Errorf("lay out the identity: %s: %w", e.Path, err)
		}
	}
	return nil
}
