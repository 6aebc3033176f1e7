package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/config"
	"relevo.dev/relevo/agent/replica/lost"
)

func newDiffLostCommand(a *app) *cobra.Command {
	q := diffLost{out: formatTable, config: config.DefaultPath}
	cmd := &cobra.Command{
		Use:   "diff-lost [TERM]",
		Short: "List the writes that a failover lost",
		Long: "List the objects that the old master had written and the master of TERM never saw;\n" +
			"without TERM, what is kept on this host and of which terms. Run it as root on the host\n" +
			"that was the master before TERM, once it follows the new one: its old datastore lies\n" +
			"there. That of the newest two terms is kept.\n\n" +
			"Nothing is changed. Exit code 3 if something was lost.",
		Args: func(cmd *cobra.Command, args []string) (err error) {
			if err := cobra.MaximumNArgs(1)(cmd, args); err != nil || len(args) == 0 {
				return err
			}
			if q.term, err = strconv.ParseUint(args[0], 10, 64); err != nil || q.term == 0 {
				return fmt.Errorf("TERM is a number such as 7, not %q; `relevo history` tells the terms", args[0])
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&q.config, "config", q.config, "configuration `file`")
	cmd.Flags().StringVar(&q.write, "write", "", "write the lost values into this new `folder`")
	cmd.Flags().BoolVar(&q.all, "all", false, "list what Kubernetes writes for itself as well: leases, events")
	cmd.Flags().VarP(&q.out, "output", "o", "table, json or yaml")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := loadConfig(q.config)
		if err != nil {
			return err
		}
		if cfg.Candidate == nil {
			return errors.New("this host never is the master, so no datastore is kept here; ask on a candidate")
		}
		return q.run(cmd.Context(), a, lost.Places{
			Datastore: cfg.Candidate.ControlPlane.Datastore.Path,
			Copy:      filepath.Join(cfg.DataDir, "replica", "state.db"),
		})
	}
	return cmd
}

type diffLost struct {
	term   uint64 // 0: none was asked for
	config string
	write  string
	all    bool
	out    format
}

func (q *diffLost) run(ctx context.Context, a *app, places lost.Places) error {
	if q.term == 0 && (q.write != "" || q.all) {
		return errors.New("--write and --all go with a TERM; without one `relevo diff-lost` lists of which there is something")
	}
	found, err := lost.Find(ctx, places)
	if err != nil {
		return asRoot(err)
	}
	p := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == ""}
	var answer any
	if q.term == 0 {
		answer = q.list(p, found)
	} else if answer, err = q.diff(ctx, a, p, found); answer == nil {
		return asRoot(err)
	}
	text := p.b.String()
	if q.out != formatTable {
		var eerr error
		if text, eerr = encode(q.out, answer); eerr != nil {
			return errors.Join(err, eerr)
		}
	}
	_, perr := fmt.Fprint(a.stdout, text)
	return errors.Join(asRoot(err), perr)
}

// keptAnswer is the answer without a term.
type keptAnswer struct {
	Against string      `json:"compared_with"`
	Terms   []uint64    `json:"promotions"`
	Kept    []keptEntry `json:"databases"`
}

type keptEntry struct {
	lost.Kept
	Lost  bool   `json:"lost"`
	Error string `json:"error,omitempty"`
}

func (q *diffLost) list(p *page, f lost.Found) keptAnswer {
	answer := keptAnswer{Against: f.Against, Terms: f.Terms, Kept: []keptEntry{}}
	var rows [][]span
	for _, k := range f.Kept {
		e := keptEntry{Kept: k, Lost: k.Lost()}
		what := span{text: "-"}
		switch {
		case k.Err != nil:
			e.Error = k.Err.Error()
			what = span{red, e.Error}
		case e.Lost:
			what = span{yellow, fmt.Sprintf("revisions %d to %d", k.Common+1, k.Head)}
		}
		answer.Kept = append(answer.Kept, e)
		term := "-"
		if k.Term != 0 {
			term = fmt.Sprint(k.Term)
		}
		rows = append(rows, []span{{text: term}, what, {text: k.Path}})
	}
	if len(rows) == 0 {
		p.text("No datastore of an older term is kept on this host. What a failover lost lies on the host that was the master before it.")
		return answer
	}
	p.text("`relevo diff-lost TERM` lists the objects.")
	p.line()
	p.table([]string{"TERM", "NEVER SAW", "KEPT IN"}, rows)
	return answer
}

// lostAnswer is the answer for a term.
type lostAnswer struct {
	Term    uint64        `json:"term"`
	Reports []lost.Report `json:"reports"`
}

// diff reports every database of the term. The answer comes also with an error,
// unless there is none at all.
func (q *diffLost) diff(ctx context.Context, a *app, p *page, f lost.Found) (any, error) {
	answer := lostAnswer{Term: q.term}
	var errs []error
	for _, k := range f.Kept {
		switch {
		case k.Err != nil:
			errs = append(errs, fmt.Errorf("%s was kept as well, but cannot be compared: %w", k.Path, k.Err))
		case k.Term == q.term:
			r, err := lost.Diff(ctx, f, k, lost.Options{All: q.all})
			if err != nil {
				errs = append(errs, fmt.Errorf("compare %s with %s: %w", k.Path, f.Against, err))
			}
			if err == nil || errors.Is(err, lost.ErrDamaged) {
				answer.Reports = append(answer.Reports, r)
			}
		}
	}
	if len(answer.Reports) == 0 {
		return nil, errors.Join(append([]error{q.nothing(f)}, errs...)...)
	}
	for i := range answer.Reports {
		r := &answer.Reports[i]
		if q.write != "" && r.Lost() {
			dir := q.write
			if len(answer.Reports) > 1 {
				dir = fmt.Sprintf("%s-%d", strings.TrimRight(dir, "/"), i+1)
			}
			if err := lost.Write(ctx, r, dir); err != nil {
				errs = append(errs, err)
			} else {
				fmt.Fprintf(a.stderr, "written to %s\n", dir)
			}
		}
		if len(r.Objects) > 0 || r.More > 0 {
			a.code = exitDegraded
		}
		if i > 0 {
			p.line()
		}
		showLost(p, r)
	}
	return answer, errors.Join(errs...)
}

// nothing says why there is nothing for the term.
func (q *diffLost) nothing(f lost.Found) error {
	if slices.Contains(f.Terms, q.term) {
		return fmt.Errorf("no datastore from before term %d is kept on this host; ask on the host that was the master before it (`relevo history`)", q.term)
	}
	known := "it began with its present term"
	if len(f.Terms) > 0 {
		var terms []string
		for _, t := range f.Terms {
			terms = append(terms, fmt.Sprint(t))
		}
		known = "those of its promotions are " + strings.Join(terms, ", ")
	}
	return fmt.Errorf("term %d is not in the history of %s: %s; if it is newer, wait until this host follows that master", q.term, f.Against, known)
}

func showLost(p *page, r *lost.Report) {
	if !r.Lost() {
		p.text("Term %d began with all that is in %s.", r.Term, r.Path)
		return
	}
	p.text("The master of term %d and those after it never saw revisions %d to %d of %s.", r.Term, r.Common+1, r.Head, r.Path)
	if len(r.Objects) > 0 {
		p.line()
		var rows [][]span
		for _, o := range r.Objects {
			revision := "-"
			if o.Revision > 0 {
				revision = fmt.Sprint(o.Revision)
			}
			rows = append(rows, []span{{text: string(o.Op)}, {text: dash(o.Resource)}, {text: dash(o.Namespace)}, {text: o.Name}, {text: dash(o.Kind)},
				{text: revision}, {text: fmt.Sprint(o.Writes)}, {text: string(o.Now)}})
		}
		p.table([]string{"LOST", "RESOURCE", "NAMESPACE", "NAME", "KIND", "REVISION", "WRITES", "NOW"}, rows)
		p.line()
		p.text("NOW is what the present master has: the object as it was before (older), one written since (newer), or none (absent).")
	}
	if r.More > 0 {
		p.text("%d more writes, to objects beyond the %d that are listed.", r.More, lost.DefaultLimit)
	}
	if len(r.Noise) > 0 {
		var parts []string
		for _, c := range r.Noise {
			parts = append(parts, fmt.Sprintf("%d to %s", c.Writes, orOther(c.Resource)))
		}
		p.text("Not listed are writes of Kubernetes for itself: %s.", strings.Join(parts, ", "))
	}
	if len(r.Objects) == 0 && r.More == 0 {
		p.text("Nothing else was lost.")
	}
}

func orOther(resource string) string {
	if resource == "" {
		return "others"
	}
	return resource
}
