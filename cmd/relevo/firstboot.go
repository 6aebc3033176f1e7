package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"relevo.dev/relevo/agent/config"
)

// What a person puts onto the boot partition of a card, and what is found there afterwards.
const (
	bootJoin   = "relevo-join.txt" // a token, or an invitation; lines with # are comments
	bootConfig = "relevo.yaml"
	bootLog    = "relevo-join.log"
)

// bootDirs are where the boot partition may be: Raspberry Pi OS since 12, and before.
var bootDirs = []string{"/boot/firmware", "/boot"}

// maxBootFile bounds what is read from it.
const maxBootFile = 64 << 10

// firstboot is what it has to do with.
type firstboot struct {
	dirs  []string
	place trustFlags
	out   io.Writer // the journal
	now   func() time.Time
	// join enters the cluster with a token or an invitation; start starts the agent.
	join  func(ctx context.Context, out io.Writer, text string) error
	start func(ctx context.Context) error
}

func newFirstbootCommand(a *app) *cobra.Command {
	f := firstboot{dirs: bootDirs, now: a.now}
	cmd := &cobra.Command{
		Use:   "firstboot",
		Short: "Take in what lies on the boot partition of a new card",
		Long: "Take in what lies on the boot partition of a new card: relevo.yaml becomes the\n" +
			"configuration, if there is none; relevo-join.txt, a token or an invitation, is used to\n" +
			"join, and then overwritten and removed. What became of it is told in\n" +
			"relevo-join.log beside it, without secrets. systemd runs this at boot.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.out = cmd.OutOrStdout()
			f.join = func(ctx context.Context, out io.Writer, text string) error {
				join := newJoinCommand()
				// A token in the arguments of a process could be read by all: it goes in by stdin.
				join.SetArgs([]string{"--no-start", "--config", f.place.config, "-"})
				join.SetIn(strings.NewReader(text))
				join.SetOut(out)
				join.SetErr(io.Discard)
				join.SilenceErrors, join.SilenceUsage = true, true
				return join.ExecuteContext(ctx)
			}
			f.start = func(ctx context.Context) error {
				// Not awaited: relevo.service is ordered behind this very unit.
				return exec.CommandContext(ctx, "systemctl", "start", "--no-block", "relevo.service").Run()
			}
			return f.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&f.place.config, "config", config.DefaultPath, "configuration `file`")
	return cmd
}

func (f *firstboot) run(ctx context.Context) error {
	if ctx == nil {
		ctx = context.Background()
	}
	var errs []error
	for _, dir := range f.dirs {
		errs = append(errs, f.takeIn(ctx, dir))
	}
	return errors.Join(errs...)
}

// takeIn takes in what lies in one folder.
func (f *firstboot) takeIn(ctx context.Context, dir string) error {
	if err := f.takeConfig(filepath.Join(dir, bootConfig)); err != nil {
		f.tell(dir, "%v", err)
		return err
	}
	path := filepath.Join(dir, bootJoin)
	text, err := readBootFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		f.tell(dir, "%v", err)
		return err
	}
	secret := withoutComments(text)
	if secret == "" {
		return f.refuse(dir, errors.New(bootJoin+" holds no token"))
	}
	var said bytes.Buffer
	if err := f.join(ctx, &said, secret); err != nil {
		return f.refuse(dir, err, secret)
	}
	fmt.Fprint(f.out, said.String())
	if err := erase(path); err != nil {
		err = fmt.Errorf("joined, but the secret is still on the card: %w: remove %s by hand", err, path)
		f.tell(dir, "%v", err)
		return errors.Join(err, f.start(ctx))
	}
	f.tell(dir, "joined; %s was overwritten and removed", bootJoin)
	return f.start(ctx)
}

// refuse tells what went wrong. The file stays: the token may be good a moment later, when a
// member answers.
func (f *firstboot) refuse(dir string, err error, secrets ...string) error {
	text := err.Error()
	for _, s := range secrets {
		for _, word := range append(strings.Fields(s), s) {
			if len(word) > 7 {
				text = strings.ReplaceAll(text, word, "…")
			}
		}
	}
	f.tell(dir, "not joined: %s", text)
	return errors.New(text)
}

// tell writes a line beside what it is about, for who takes the card out again.
func (f *firstboot) tell(dir, format string, args ...any) {
	line := clean(strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", " "))
	fmt.Fprintln(f.out, line)
	path := filepath.Join(dir, bootLog)
	if st, err := os.Stat(path); err == nil && st.Size() > maxBootFile {
		os.Remove(path)
	}
	w, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return // the journal has it
	}
	fmt.Fprintf(w, "%s %s\r\n", f.now().UTC().Format(time.RFC3339), line) // for Windows' Notepad, too
	w.Sync()
	w.Close()
}

// takeConfig puts a configuration in place, if it is one and there is none.
func (f *firstboot) takeConfig(path string) error {
	text, err := readBootFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	text = bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))
	if _, err := config.Parse(bytes.NewReader(text), path); err != nil {
		return fmt.Errorf("the configuration is not usable: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(f.place.config), 0o750); err != nil {
		return err
	}
	err = writeNew(f.place.config, string(text), 0o640)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s was not taken in: there is %s already", path, f.place.config)
	}
	if err != nil {
		return err
	}
	f.tell(filepath.Dir(path), "%s is the configuration now", bootConfig)
	return os.Remove(path)
}

func readBootFile(path string) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxBootFile {
		return nil, fmt.Errorf("%s is no file of at most %d KiB", path, maxBootFile>>10)
	}
	return os.ReadFile(path)
}

// withoutComments is the token or the invitation in a text that somebody typed, on
// whatever system.
func withoutComments(text []byte) string {
	text = bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")) // Notepad's mark
	var out []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}

// erase overwrites a file and removes it. A card may keep old blocks all the same: that is
// why a token ends by itself.
func erase(path string) error {
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	st, err := w.Stat()
	if err == nil {
		_, err = w.Write(bytes.Repeat([]byte{'#'}, int(st.Size())))
	}
	if err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	d.Sync() // not every file system can; the file is gone
	return nil
}
