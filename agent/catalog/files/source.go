package files

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"relevo.dev/relevo/agent/catalog"
	"relevo.dev/relevo/agent/catalog/check"
)

// maxChecks of all files.
const maxChecks = 200

// Source makes entries of the catalog of a folder.
type Source struct {
	Dir    string
	Node   string // this host's name, for %h
	Runner *check.Runner
	Log    *slog.Logger
	// Set takes what there is now.
	Set func([]catalog.Entry, []catalog.Problem)

	mu       sync.Mutex
	entries  []catalog.Entry
	checked  map[string]bool // IDs with a check
	problems []catalog.Problem
	told     map[string]bool // problems that are in the log
}

// Run reads, watches and checks until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		s.Runner.Run(ctx)
		return nil
	})
	g.Go(func() error {
		watch(ctx, s.Dir, s.Log, s.take)
		return nil
	})
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-s.Runner.Changes():
				s.declare()
			}
		}
	})
	return g.Wait()
}

// take reads what is in the folder now.
func (s *Source) take(c content) {
	entries, specs, problems := parse(c, s.Node)
	told := map[string]bool{}
	for _, p := range problems {
		told[p.Text] = true
		if !s.told[p.Text] {
			s.Log.Warn("a service is not taken over", "err", p.Text)
		}
	}
	s.told = told
	s.mu.Lock()
	s.entries, s.problems, s.checked = entries, problems, map[string]bool{}
	for id := range specs {
		s.checked[id] = true
	}
	s.mu.Unlock()
	s.Runner.Set(specs)
	s.declare()
}

// declare tells the catalog what there is, and how it is.
func (s *Source) declare() {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.entries)
	for i := range out {
		e := &out[i]
		if !s.checked[e.ID] {
			continue
		}
		switch st := s.Runner.State(e.ID); {
		case !st.Known:
			e.Health = catalog.Checking
		case st.OK:
			e.Health = catalog.OK
		default:
			e.Health, e.Why = catalog.Failing, st.Why
		}
	}
	s.Set(out, s.problems)
}

// parse makes entries of files, by name; the same files make the same entries.
func parse(c content, node string) (entries []catalog.Entry, specs map[string]check.Spec, problems []catalog.Problem) {
	specs = map[string]check.Spec{}
	var errs []*Error
	errs = append(errs, c.faults...)
	used := map[string]int{}
	paths := make([]string, 0, len(c.texts))
	for p := range c.texts {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	wild := strings.NewReplacer("%%", "%", "%h", node)
	for _, path := range paths {
		form := ParseYAML
		if strings.HasSuffix(path, ".service") {
			form = ParseXML
		}
		services, wrong := form(path, c.texts[path])
		errs = append(errs, wrong...)
		for _, sv := range services {
			// Not its place in the file: what stands before it may go.
			id := fmt.Sprintf("%s:%s:%d", filepath.Base(path), sv.Type, sv.Port)
			if used[id]++; used[id] > 1 {
				id += fmt.Sprintf(":%d", used[id])
			}
			e := catalog.Entry{ID: id, Name: wild.Replace(sv.Name), Type: sv.Type, Subtypes: sv.Subtypes, Description: sv.Description, Host: sv.Host, Port: sv.Port, TXT: sv.TXT, Public: sv.Public}
			if sv.Addr.IsValid() {
				e.Addrs = []netip.Addr{sv.Addr}
			}
			if sv.Check != nil {
				if len(specs) == maxChecks {
					errs = append(errs, &Error{File: path, Msg: fmt.Sprintf("%s: %d checks are made on a host: this one is left out, with its service", quote(e.Name), maxChecks)})
					continue
				}
				specs[id] = *sv.Check
			}
			entries = append(entries, e)
		}
	}
	sort.SliceStable(errs, func(i, j int) bool {
		return cmp.Or(cmp.Compare(errs[i].File, errs[j].File), cmp.Compare(errs[i].Line, errs[j].Line)) < 0
	})
	for _, e := range errs {
		problems = append(problems, catalog.Problem{Text: e.Error()})
	}
	return entries, specs, problems
}
