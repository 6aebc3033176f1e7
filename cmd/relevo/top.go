package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/api"
	"relevo.dev/relevo/health"
)

// topEvery is how often `relevo top` asks: boards measure every 10 s, but who is the
// master, and how far a copy is behind, changes sooner.
const topEvery = 2 * time.Second

func newTopCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show all boards live",
		Long: "Show all boards live: role, temperature, processor, memory, disk, how far the copy is\n" +
			"behind, and what is wrong. q or Ctrl-C ends it. Where the output is no terminal it is\n" +
			"shown once.",
		Args: cobra.NoArgs,
	}
	once := cmd.Flags().Bool("once", false, "show it once and end")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		if *once || a.screen == nil || a.env("TERM") == "dumb" {
			h, err := c.Health(cmd.Context())
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(a.stdout, topText(a, h, a.columns()))
			return err
		}
		return runTop(cmd.Context(), a, c)
	}
	return cmd
}

// columns of the terminal; 80 where nobody knows.
func (a *app) columns() int {
	if a.screen != nil && a.screen.cols != nil {
		if n := a.screen.cols(); n > 0 {
			return n
		}
	}
	return 80
}

// runTop draws until somebody ends it, and leaves the terminal as it was whatever
// happens.
func runTop(ctx context.Context, a *app, c *api.Client) error {
	ctx, end := signal.NotifyContext(ctx, syscall.SIGHUP, syscall.SIGQUIT)
	defer end()
	resized := make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	defer signal.Stop(resized)
	defer quiet(a.stdin)()
	a.screen.open(a.stdout)
	defer a.screen.close(a.stdout)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end() // before the wait
	if a.stdin != nil {
		wg.Go(func() {
			keys(ctx, a.stdin, func(b byte) {
				if b == 'q' || b == 'Q' {
					end()
				}
			})
		})
	}
	t := time.NewTicker(cmp.Or(a.tick, topEvery))
	defer t.Stop()
	var last api.Health
	for {
		h, err := c.Health(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err == nil {
			last = h
		}
		for again := true; again; {
			text := ""
			if len(last.Nodes) > 0 {
				text = topText(a, last, a.columns())
			}
			if err != nil { // the agent may restart under our eyes: keep looking
				text = "relevo: " + clean(err.Error()) + "\n\n" + text
			}
			a.screen.draw(a.stdout, text)
			select {
			case <-ctx.Done():
				return nil
			case <-resized:
			case <-t.C:
				again = false
			}
		}
	}
}

// topText is one frame: a line that sums up, a table, and a line for each condition.
func topText(a *app, h api.Health, columns int) string {
	p := &page{now: a.now(), colour: a.screen != nil && a.env("NO_COLOR") == "" && a.env("TERM") != "dumb"}
	alive, master := 0, "nobody"
	for _, n := range h.Nodes {
		if n.Report != nil {
			alive++
		}
		if n.Role == api.RoleMaster && n.Report != nil {
			master = n.Node
		}
	}
	p.line(span{bold, master}, span{text: " is the master, "}, span{text: fmt.Sprintf("%d of %s answer", alive, count(len(h.Nodes), "board", "boards"))})
	p.line()
	const name = 16
	rows := [][]span{}
	width := 0
	for _, n := range h.Nodes {
		cells := []span{{text: cut(n.Node, name)}, topRole(n)}
		r := n.Report
		if r == nil {
			r = &health.Report{}
		}
		disk := "?"
		if len(r.Disks) > 0 {
			disk = used(r.Disks[0].Free, r.Disks[0].Total)
		}
		lag := "-"
		if n.LagSeconds != nil {
			lag = seconds(*n.LagSeconds)
		}
		for _, t := range []string{number(r.Temperature, "%.0f°C"), number(r.CPUPercent, "%.0f%%"), used(r.MemoryAvailable, r.MemoryTotal), disk, lag} {
			cells = append(cells, span{text: fmt.Sprintf("%5s", t)})
		}
		rows = append(rows, cells)
		w := 2 * len(cells)
		for _, c := range cells {
			w += len([]rune(c.text))
		}
		width = max(width, w)
	}
	for i, n := range h.Nodes {
		rows[i] = append(rows[i], span{yellow, cut(words(holding(n)), max(columns-width-10, 12))})
	}
	p.table([]string{"NODE", "ROLE", " TEMP", "  CPU", "  MEM", " DISK", "  LAG", "CONDITIONS"}, rows)
	var lines []string
	for _, n := range h.Nodes {
		lines = append(lines, said(n)...)
	}
	if len(lines) > 0 {
		p.line()
	}
	for _, l := range lines {
		p.line(span{text: cut(l, columns)})
	}
	return p.b.String()
}

func topRole(n api.NodeHealth) span {
	switch {
	case n.Status == "failed":
		return span{red, "lost"}
	case n.Report == nil:
		return span{red, "silent"}
	case n.Role == api.RoleMaster:
		return span{bold, string(n.Role)}
	}
	return span{text: string(n.Role)}
}

// holding are the conditions of a board that hold: as it says, or as it gossiped last.
func holding(n api.NodeHealth) []health.Type {
	if n.Report == nil {
		return n.Gossiped
	}
	var out []health.Type
	for _, c := range n.Conditions {
		if c.Status == health.Yes {
			out = append(out, c.Type)
		}
	}
	return out
}

// said is what is wrong with a board in words, a line each.
func said(n api.NodeHealth) []string {
	var out []string
	if n.Report == nil {
		for _, c := range n.Gossiped {
			out = append(out, n.Node+": "+health.Words(c)+", as it gossiped last")
		}
		return out
	}
	for _, c := range n.Conditions {
		if c.Status == health.Yes {
			out = append(out, fmt.Sprintf("%s: %s, for %s", n.Node, c.Message, seconds(c.For)))
		}
	}
	return out
}

// used is the share that is taken of a whole.
func used(left, whole health.Value) string {
	a, ok1 := left.Get()
	b, ok2 := whole.Get()
	if !ok1 || !ok2 || b <= 0 {
		return "?"
	}
	return fmt.Sprintf("%.0f%%", 100*(1-min(max(a/b, 0), 1)))
}

// cut shortens a text to so many columns.
func cut(s string, columns int) string {
	r := []rune(clean(s))
	if len(r) <= columns {
		return string(r)
	}
	return strings.TrimRight(string(r[:max(columns-1, 0)]), " ") + "…"
}
