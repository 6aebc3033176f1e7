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
	a := &app{
		stdin:  os.Stdin,
		stdout: os.Stdout,
		stderr: os.Stderr,
		now:    time.Now,
		env:    os.Getenv,
		screen: terminal(os.Stdout),
	}
	code := 0
	if calledAs(os.Args[0], avahiPS) {
		code = runAvahiPS(ctx, os.Args[1:], a, "")
	} else {
		code = run(ctx, os.Args[1:], a)
	}
	stop()
	os.Exit(code)
}
