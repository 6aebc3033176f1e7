package cloudy

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
)

// found is a service as Cloudy's page reads it.
type found struct {
	NodeID string `json:"node_id"`
	service
}

// search prints what there is, for each backend in turn as Cloudy's script does:
// memory (Avahi) in lines, serf in one line of JSON. Cloudy's page takes standard
// error for output, too, and reads the first line: so that comes first, and is
// there also when nothing could be found out.
func (s *Standin) search(ctx context.Context, args []string) error {
	args = append(slices.Clone(args), "", "")
	entries, err := s.Lister.Entries(ctx)
	if err != nil {
		err = fmt.Errorf("search: %w", err)
	}
	_, addr, _ := s.address() // without one ours are shown without
	here := Here{Node: s.Node, Cloud: s.Settings.Cloud, MicroCloud: s.Settings.MicroCloud, Addr: addr}
	list := match(entries, here, args[0], args[1])
	for _, b := range s.Settings.Backends {
		switch b {
		case "memory":
			for _, f := range list {
				if f.entry.Origin != OriginCloudy {
					fmt.Fprintln(s.Stdout, browsed(f))
				}
			}
		case "serf":
			out := make([]found, 0, len(list))
			for _, f := range list {
				if !f.entry.Local {
					out = append(out, found{safe(cmp.Or(f.entry.Node, s.Node), maxText), f.service})
				}
			}
			fmt.Fprintf(s.Stdout, "%s\n", marshal(out))
		default:
			if err == nil {
				err = fmt.Errorf("search: there is no %.20q here, only serf and avahi", b)
			}
		}
	}
	return err
}

// match keeps services of a type and a host; "" and "." are any. A host is given
// with or without what follows its name.
func match(entries []Entry, here Here, kind, host string) []one {
	entries = slices.Clone(entries)
	sort.Slice(entries, func(i, j int) bool { return compare(entries[i], entries[j]) < 0 })
	var list []one
	for _, e := range entries {
		s := wire(e, here)
		name, _, _ := strings.Cut(s.Host, ".")
		if s.Type == "" || kind != "" && kind != "." && bareType(kind) != s.Type || host != "" && host != "." && host != s.Host && host != name {
			continue
		}
		list = append(list, one{e, s})
	}
	return list
}

// browsed is a line as Cloudy cuts it out of what avahi-browse prints:
// type;name;host;address;port;txt.
func browsed(o one) string {
	name := clean(o.entry.Name, maxName)
	return fmt.Sprintf(`_%s._tcp;%s;%s;%s;%s;"%s"`, o.Type, escape(name), o.Host, o.Addr, o.Port, o.TXT)
}

// escape writes a name as avahi-browse does, every odd byte as a backslash and three
// decimal digits; Cloudy's page turns them back. It knows no other form, so that
// dots and backslashes are written so, too.
func escape(name string) string {
	var b strings.Builder
	for i := range len(name) {
		c := name[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "\\%03d", c)
		}
	}
	return b.String()
}
