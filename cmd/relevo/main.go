// Command relevo is the one binary: the agent of a host, and the command line
// that asks it.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], &app{
		stdout: os.Stdout,
		stderr: os.Stderr,
		now:    time.Now,
		env:    os.Getenv,
		screen: terminal(os.Stdout),
	})
	stop()
	os.Exit(code)
}
