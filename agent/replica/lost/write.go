package lost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"relevo.dev/relevo/agent/replica/kine"
)

// IndexFile lists in a folder that Write made what lies in it, and what was
// deleted and therefore does not.
const IndexFile = "index.json"

// Write writes the newest lost value of every object of a report that was not
// deleted into a folder: RESOURCE/NAMESPACE/NAME.REVISION.raw is what lay in the
// datastore, byte for byte; a value in JSON lies beside it as .json, indented.
// The namespace of what has none is called "_". It sets Object.File. The folder is made, or is there and empty; Secrets come
// to lie in it, so nobody but its owner may look into it.
//
// Where it fails, what was written so far stays there.
func Write(ctx context.Context, r *Report, dir string) error {
	root, err := openFolder(dir)
	if err != nil {
		return fmt.Errorf("write what was lost to %s: %w", dir, err)
	}
	err = with(ctx, r.Path, func(kept *kine.Reader) error {
		for i := range r.Objects {
			if err := writeObject(ctx, root, kept, &r.Objects[i]); err != nil {
				return err
			}
		}
		index, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		return writeFile(root, IndexFile, append(index, '\n'))
	})
	if err := errors.Join(damaged(err), root.Close()); err != nil {
		return fmt.Errorf("write what was lost to %s: %w", dir, err)
	}
	return nil
}

// openFolder makes the folder or finds it empty. What is written through an
// os.Root cannot leave it, whatever the names are.
func openFolder(dir string) (*os.Root, error) {
	err := os.Mkdir(dir, 0o700)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := private(root); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// private says whether the folder is empty and its owner's alone.
func private(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("others may look into it (mode %04o), and there may be Secrets among the objects; give a folder that is not there yet", st.Mode().Perm())
	}
	switch _, err := f.Readdirnames(1); {
	case err == nil:
		return errors.New("it is not empty; give a folder that is not there yet")
	case errors.Is(err, io.EOF):
		return nil
	default:
		return err
	}
}

func writeObject(ctx context.Context, root *os.Root, kept *kine.Reader, o *Object) error {
	if o.Op != Create && o.Op != Update {
		return nil
	}
	value, err := kept.Value(ctx, o.Revision)
	if err != nil {
		return err
	}
	folder := path.Join(fileName(o.Resource), fileName(o.Namespace))
	if err := root.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	name := path.Join(folder, fmt.Sprintf("%s.%d", fileName(o.Name), o.Revision))
	o.File = name + ".raw"
	if err := writeFile(root, o.File, value); err != nil {
		return err
	}
	var text bytes.Buffer
	if o.Encoding != JSON || json.Indent(&text, value, "", "  ") != nil {
		return nil
	}
	text.WriteByte('\n')
	return writeFile(root, name+".json", text.Bytes())
}

func writeFile(root *os.Root, name string, data []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// maxFileName leaves room for the revision and the suffix in the 255 bytes that
// a file name may have.
const maxFileName = 200

// fileName makes one file name of any text: what is not plain becomes %XX, as
// well as a dot in front, the end of a long one becomes its checksum, and nothing
// becomes "_". The revision behind it tells apart what still looks alike.
func fileName(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	name := b.String()
	if name == "" {
		return "_"
	}
	if len(name) > maxFileName {
		sum := sha256.Sum256([]byte(s))
		name = name[:maxFileName-17] + "%" + hex.EncodeToString(sum[:8])
	}
	return name
}
