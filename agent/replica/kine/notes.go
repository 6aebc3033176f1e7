package kine

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Notes are what relevo remembers inside a database, in a table of its own
// beside kine's: written in the same transaction as what they speak of, they
// can never contradict it. kine does not look at other tables.
type Notes struct {
	Cluster   string
	Term      uint64 // term of the master that the copy last heard
	Complete  bool   // the first copy reached the master's newest revision
	Forks     []Fork // promotions in this history, oldest first, the newest MaxForks
	Installed uint64 // term whose promotion put this file in place
	Bumped    uint64 // term whose promotion jumped the revision
}

// MaxForks is how many promotions are remembered.
const MaxForks = 16

const notesTable = `CREATE TABLE IF NOT EXISTS relevo (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID`

// readNotes returns zero notes for a database that relevo never wrote.
func readNotes(ctx context.Context, q querier) (Notes, error) {
	var n Notes
	var exists int
	if err := q.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type='table' AND name='relevo'`).Scan(&exists); err != nil {
		return n, fmt.Errorf("read relevo's notes: %w", err)
	}
	if exists == 0 {
		return n, nil
	}
	rows, err := q.QueryContext(ctx, `SELECT key, value FROM relevo LIMIT 64`)
	if err != nil {
		return n, fmt.Errorf("read relevo's notes: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k, v string
		if err := rows.Scan(&k, &v); err != nil {
			return n, fmt.Errorf("read relevo's notes: %w", err)
		}
		if err := n.set(k, v); err != nil {
			return n, fmt.Errorf("read relevo's notes: %s=%q: %w", k, v, err)
		}
	}
	return n, rows.Err()
}

func (n *Notes) set(k, v string) (err error) {
	switch k {
	case "cluster":
		n.Cluster = v
	case "term":
		n.Term, err = strconv.ParseUint(v, 10, 64)
	case "complete":
		n.Complete = v == "yes"
	case "installed":
		n.Installed, err = strconv.ParseUint(v, 10, 64)
	case "bumped":
		n.Bumped, err = strconv.ParseUint(v, 10, 64)
	case "forks":
		n.Forks, err = parseForks(v)
	}
	return err
}

// writeNotes makes the table say exactly n.
func writeNotes(ctx context.Context, q querier, n Notes) error {
	if _, err := q.ExecContext(ctx, notesTable); err != nil {
		return fmt.Errorf("write relevo's notes: %w", err)
	}
	complete := "no"
	if n.Complete {
		complete = "yes"
	}
	for _, kv := range [][2]string{
		{"cluster", n.Cluster}, {"term", strconv.FormatUint(n.Term, 10)}, {"complete", complete}, {"forks", formatForks(n.Forks)},
		{"installed", strconv.FormatUint(n.Installed, 10)}, {"bumped", strconv.FormatUint(n.Bumped, 10)},
	} {
		if _, err := q.ExecContext(ctx, `INSERT INTO relevo(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET value=excluded.value`, kv[0], kv[1]); err != nil {
			return fmt.Errorf("write relevo's notes: %w", err)
		}
	}
	return nil
}

// formatForks writes term:from:gap, space separated.
func formatForks(forks []Fork) string {
	var b strings.Builder
	for _, f := range forks[max(0, len(forks)-MaxForks):] {
		fmt.Fprintf(&b, "%d:%d:%d ", f.Term, f.From, f.Gap)
	}
	return strings.TrimSpace(b.String())
}

func parseForks(s string) ([]Fork, error) {
	var forks []Fork
	for _, w := range strings.Fields(s) {
		p := strings.Split(w, ":")
		if len(p) != 3 || len(forks) == MaxForks {
			return nil, fmt.Errorf("malformed list of promotions")
		}
		term, err1 := strconv.ParseUint(p[0], 10, 64)
		from, err2 := strconv.ParseInt(p[1], 10, 64)
		gap, err3 := strconv.ParseInt(p[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return nil, fmt.Errorf("malformed list of promotions")
		}
		forks = append(forks, Fork{Term: term, From: from, Gap: gap})
	}
	return forks, nil
}
