package cloudy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"

	"gopkg.in/yaml.v3"

	"relevo.dev/relevo/agent/durable"
)

// Store is where the stand-in leaves what is published through it.
type Store interface {
	// Publish adds a service of this host, in place of one with its type and port.
	Publish(context.Context, Entry) error
	// Unpublish takes away those of a type that were added, all of them if port is 0,
	// and says how many there were. Services from elsewhere stay.
	Unpublish(ctx context.Context, kind string, port int) (int, error)
}

// Lister knows the services that the stand-in finds: ours, and Cloudy's as
// [Bridge.Entries] gives them.
type Lister interface {
	Entries(context.Context) ([]Entry, error)
}

// FileStore is a Store of files in the folder from which the agent takes services,
// one for each, named avahi-ps-TYPE-PORT.yaml. They are whole at any moment, and
// not written when they would be the same. As a Lister it knows no other services.
type FileStore struct {
	Dir string
}

// DefaultServicesDir is where the agent looks for services.
const DefaultServicesDir = "/etc/relevo/services.d"

const (
	maxFiles    = 200      // that the stand-in makes
	maxFile     = 16 << 10 // bytes
	storePrefix = "avahi-ps-"
)

// serviceFile is a service in YAML.
type serviceFile struct {
	Name        string   `yaml:"name"`
	Type        string   `yaml:"type"`
	Port        int      `yaml:"port"`
	Description string   `yaml:"description,omitempty"`
	TXT         []string `yaml:"txt,omitempty"`
	Cloudy      bool     `yaml:"cloudy"` // the community may see it: it was published there
}

var storeName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^` + storePrefix + `([A-Za-z0-9-]+)-([0-9]{1,5})\.yaml$`)
})

// Publish implements Store.
func (s FileStore) Publish(_ context.Context, e Entry) error {
	text, err := yaml.Marshal(serviceFile{e.Name, e.Type, e.Port, e.Description, e.TXT, true})
	if err != nil {
		return err
	}
	kind := bareType(e.Type)
	text = append(fmt.Appendf(nil, "# Written by avahi-ps; `avahi-ps unpublish %s %d` removes it.\n", kind, e.Port), text...)
	path := filepath.Join(s.Dir, fmt.Sprintf("%s%s-%d.yaml", storePrefix, kind, e.Port))
	if !storeName().MatchString(filepath.Base(path)) {
		return fmt.Errorf("type %q and port %d make no name of a file", e.Type, e.Port)
	}
	if before, err := readSmall(path, maxFile); err == nil && bytes.Equal(before, text) {
		return nil
	}
	names, err := s.names()
	if err != nil {
		return err
	}
	if len(names) >= maxFiles && !slices.Contains(names, filepath.Base(path)) {
		return fmt.Errorf("%s has %d services of avahi-ps already; unpublish some", s.Dir, len(names))
	}
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return err
	}
	return durable.Replace(path, text, 0o644)
}

// Unpublish implements Store.
func (s FileStore) Unpublish(_ context.Context, kind string, port int) (n int, err error) {
	names, err := s.names()
	if err != nil {
		return 0, err
	}
	for _, name := range names {
		m := storeName().FindStringSubmatch(name)
		if m[1] != bareType(kind) || port != 0 && m[2] != fmt.Sprint(port) {
			continue
		}
		if err := os.Remove(filepath.Join(s.Dir, name)); err == nil {
			n++
		} else if !errors.Is(err, fs.ErrNotExist) {
			return n, err
		}
	}
	return n, nil
}

// Entries implements Lister. Files that cannot be read do not hide the others.
func (s FileStore) Entries(context.Context) ([]Entry, error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var list []Entry
	var faults []error
	for _, name := range names {
		path := filepath.Join(s.Dir, name)
		text, err := readSmall(path, maxFile)
		if errors.Is(err, fs.ErrNotExist) {
			continue // gone meanwhile
		}
		var f serviceFile
		if err == nil {
			if err = yaml.Unmarshal(text, &f); err != nil {
				err = fmt.Errorf("read %s: %w", path, err)
			}
		}
		if err == nil && (f.Port < 1 || f.Port > 65535) {
			err = fmt.Errorf("read %s: port %d: 1 to 65535 is allowed", path, f.Port)
		}
		if err != nil {
			faults = append(faults, err)
			continue
		}
		e := Entry{Name: clean(f.Name, maxName), Type: dnsType(f.Type), Description: clean(f.Description, maxText), Port: f.Port, TXT: f.TXT, Origin: "file"}
		if st, err := os.Stat(path); err == nil {
			e.Since = st.ModTime()
		}
		list = append(list, e)
	}
	return list, errors.Join(faults...)
}

// names are those of our files, in order; none if there is no folder.
func (s FileStore) names() ([]string, error) {
	all, err := os.ReadDir(s.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, d := range all {
		if storeName().MatchString(d.Name()) {
			names = append(names, d.Name())
		}
	}
	return names, nil
}
