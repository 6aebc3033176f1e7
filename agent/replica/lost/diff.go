package lost

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sort"

	"relevo.dev/relevo/agent/replica/kine"
)

// Op is what the lost writes did to an object, taken together.
type Op string

// The operations. Passing is an object that was created and deleted again.
const (
	Create  Op = "create"
	Update  Op = "update"
	Delete  Op = "delete"
	Passing Op = "create+delete"
)

// Now is what the present master has under the same key.
type Now string

// The object as it was at the last common revision, one that was written
// since, or none.
const (
	Older  Now = "older"
	Newer  Now = "newer"
	Absent Now = "absent"
)

// Object is one that had writes which were lost.
type Object struct {
	Key
	Path       string   `json:"key"`                   // the whole key
	APIVersion string   `json:"api_version,omitempty"` // "" if its value does not tell
	Kind       string   `json:"kind,omitempty"`
	Encoding   Encoding `json:"encoding,omitempty"`
	Op         Op       `json:"op"`
	// Revision of the newest lost write; 0 for a delete of which only the
	// absence is left, because the old master had compacted it away.
	Revision int64  `json:"revision"`
	Writes   int    `json:"writes"`     // that were lost
	Size     int64  `json:"size_bytes"` // of the newest value; 0 if it was deleted
	Now      Now    `json:"now"`
	File     string `json:"file,omitempty"` // below the folder, once written
}

// Count sums up what is not listed.
type Count struct {
	Resource string `json:"resource"`
	Writes   int64  `json:"writes"`
}

// Report is what one old database has and the present one never saw.
type Report struct {
	Kept
	Against string   `json:"compared_with"`
	Objects []Object `json:"objects"`                     // by resource, namespace, name; noise last
	Noise   []Count  `json:"noise,omitempty"`             // Kubernetes' own writes that are not in Objects, by resource
	More    int64    `json:"writes_not_listed,omitempty"` // to objects beyond the limit
}

// Options of Diff.
type Options struct {
	All   bool // list Kubernetes' own noise as well
	Limit int  // of objects; 0 = DefaultLimit
}

// DefaultLimit of objects: some 4 MB of memory.
const DefaultLimit = 10_000

// nameBytes bounds the keys that are held; Kubernetes' are below 700 bytes.
const nameBytes = 8 << 20

// maxNoise bounds the kinds of noise that are counted one by one.
const maxNoise = 64

// chunk is how many objects are looked up while the present database is open:
// some ten milliseconds.
const chunk = 64

// Diff lists what was lost with an old database. Writes that were under way
// when the old master died are listed as well: whether they were acknowledged
// is not in the datastore. With ErrDamaged comes what could be read.
func Diff(ctx context.Context, f Found, k Kept, opt Options) (Report, error) {
	d := differ{Report: Report{Kept: k, Against: f.Against}, opt: opt, index: map[string]int{}, noise: map[string]int64{}}
	if opt.Limit <= 0 {
		d.opt.Limit = DefaultLimit
	}
	if k.Err != nil || !k.Lost() {
		return d.Report, k.Err
	}
	err := with(ctx, k.Path, func(r *kine.Reader) error {
		pos, perr := r.Position(ctx)
		d.compact = pos.Compact
		// What can be read is read in any case; but it must not look whole.
		return errors.Join(perr, d.scan(ctx, r), r.Check(ctx, false))
	})
	if err = damaged(err); err != nil {
		d.compact = math.MaxInt64 // unknown
	}
	if err != nil && !errors.Is(err, ErrDamaged) {
		return d.Report, err
	}
	if perr := d.lookUp(ctx); perr != nil {
		return d.Report, errors.Join(err, perr)
	}
	if err == nil { // of a damaged one nobody knows what is missing
		err = damaged(d.vanished(ctx))
	}
	d.finish()
	return d.Report, err
}

// differ is a Diff on its way.
type differ struct {
	Report
	opt     Options
	compact int64          // the old database is compacted up to here
	index   map[string]int // key to its place in Objects
	bytes   int            // of the keys
	noise   map[string]int64
}

// scan gathers the lost writes from the old database, by object.
func (d *differ) scan(ctx context.Context, r *kine.Reader) error {
	for after, done := d.Common, false; !done; {
		list, next, end, err := r.Changes(ctx, after)
		for i := range list {
			d.add(&list[i])
		}
		if err != nil {
			return err
		}
		after, done = next, end
	}
	return nil
}

func (d *differ) add(c *kine.Change) {
	i, ok := d.index[c.Name]
	if !ok {
		key := ParseKey(c.Name)
		if key.Noise() && !d.opt.All {
			d.count(key.Resource)
			return
		}
		if !d.fits(c.Name) {
			d.More++
			return
		}
		i = d.put(Object{Key: key, Path: c.Name})
	}
	o := &d.Objects[i]
	o.Revision = c.Revision
	o.Writes++
	existed := o.Op != Create && o.Op != Passing
	if o.Writes == 1 {
		// Where rows before this one are compacted away, it may be an update of
		// what was created after the last common revision.
		existed = !c.Created && c.CreateRevision <= d.Common
	}
	switch {
	case c.Deleted && existed:
		o.Op = Delete
	case c.Deleted:
		o.Op = Passing
	case existed:
		o.Op = Update
	default:
		o.Op = Create
	}
	o.Size = 0
	if !c.Deleted {
		o.Size = c.Size
	}
	o.know(c.Begin)
}

// know takes over what the beginning of a value tells; that of a tombstone may be
// missing.
func (o *Object) know(begin []byte) {
	if len(begin) == 0 && o.Encoding != "" {
		return
	}
	e := ReadEnvelope(begin)
	o.APIVersion, o.Kind, o.Encoding = e.APIVersion, e.Kind, e.Encoding
}

func (d *differ) count(resource string) {
	if _, ok := d.noise[resource]; !ok && len(d.noise) == maxNoise {
		resource = ""
	}
	d.noise[resource]++
}

func (d *differ) fits(name string) bool {
	return len(d.Objects) < d.opt.Limit && d.bytes+len(name) <= nameBytes
}

func (d *differ) put(o Object) int {
	d.index[o.Path] = len(d.Objects)
	d.bytes += len(o.Path)
	d.Objects = append(d.Objects, o)
	return len(d.Objects) - 1
}

// lookUp asks the present database for each object. Where the old one is
// compacted beyond the last common revision, its rows do not tell whether an
// object was there before; what is left of it here may.
func (d *differ) lookUp(ctx context.Context) error {
	for part := range slices.Chunk(d.Objects, chunk) {
		err := with(ctx, d.Against, func(r *kine.Reader) error {
			for i := range part {
				o := &part[i]
				c, ok, err := r.Newest(ctx, o.Path, math.MaxInt64)
				if err != nil {
					return err
				}
				o.Now = d.now(c, ok)
				if !ok || d.compact <= d.Common || o.Op != Create && o.Op != Passing {
					continue
				}
				existed, err := d.existed(ctx, r, &c)
				switch {
				case err != nil:
					return err
				case existed && o.Op == Create:
					o.Op = Update
				case existed:
					o.Op = Delete
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) now(c kine.Change, ok bool) Now {
	switch {
	case !ok || c.Deleted:
		return Absent
	case c.Revision <= d.Common:
		return Older
	}
	return Newer
}

// existed says whether the object of a change was there at the last common
// revision, as far as the present database still knows.
func (d *differ) existed(ctx context.Context, present *kine.Reader, c *kine.Change) (bool, error) {
	if c.Revision > d.Common && c.CreateRevision > 0 && c.CreateRevision <= d.Common {
		return true, nil
	}
	was, ok, err := present.Newest(ctx, c.Name, d.Common)
	return ok && !was.Deleted, err
}

// vanished looks for objects that the old master deleted, and then compacted so
// far that nothing is left of them in its database: they are in the present one
// from before the last common revision, and not in the old one.
func (d *differ) vanished(ctx context.Context) error {
	if d.compact <= d.Common {
		return nil
	}
	for after, done := int64(0), false; !done; {
		var list []kine.Change
		err := with(ctx, d.Against, func(r *kine.Reader) (err error) {
			if list, after, done, err = r.Changes(ctx, after); err == nil {
				list, err = d.wereThere(ctx, r, list)
			}
			return err
		})
		if err != nil {
			return err
		}
		if len(list) == 0 {
			continue
		}
		if err := with(ctx, d.Path, func(old *kine.Reader) error { return d.missing(ctx, old, list) }); err != nil {
			return err
		}
	}
	return nil
}

// wereThere keeps of a list what was there at the last common revision, and is
// not known to be lost already; of each object the newest change.
func (d *differ) wereThere(ctx context.Context, present *kine.Reader, list []kine.Change) ([]kine.Change, error) {
	kept := list[:0]
	for i := range list {
		if _, known := d.index[list[i].Name]; known {
			continue
		}
		was, err := d.existed(ctx, present, &list[i])
		if err != nil {
			return nil, err
		}
		if !was {
			continue
		}
		newest, _, err := present.Newest(ctx, list[i].Name, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		kept = append(kept, newest)
	}
	return kept, nil
}

// missing adds those of a list that the old database does not have at all.
func (d *differ) missing(ctx context.Context, old *kine.Reader, list []kine.Change) error {
	for i := range list {
		c := &list[i]
		_, there, err := old.Newest(ctx, c.Name, math.MaxInt64)
		if err != nil {
			return err
		}
		_, known := d.index[c.Name]
		key := ParseKey(c.Name)
		switch {
		case there || known || key.Noise() && !d.opt.All:
		case !d.fits(c.Name):
			d.More++
		default:
			o := Object{Key: key, Path: c.Name, Op: Delete, Writes: 1, Now: d.now(*c, true)}
			o.know(c.Begin)
			d.put(o)
		}
	}
	return nil
}

// finish brings everything into an order that is the same each time.
func (d *differ) finish() {
	sort.Slice(d.Objects, func(i, j int) bool {
		a, b := &d.Objects[i], &d.Objects[j]
		if an, bn := a.Noise(), b.Noise(); an != bn {
			return bn
		}
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Path, b.Path)) < 0
	})
	for resource, n := range d.noise {
		d.Noise = append(d.Noise, Count{resource, n})
	}
	sort.Slice(d.Noise, func(i, j int) bool { return d.Noise[i].Resource < d.Noise[j].Resource })
}
