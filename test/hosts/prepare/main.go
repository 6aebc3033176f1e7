// Command prepare makes the machine ready for the tests on real hosts: Debian's
// tools, the base image, kine and kube-apiserver. What is there is kept. It exits
// with 0 when all is ready and with 3 when this machine cannot have such hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"relevo.dev/relevo/test/hosts"
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	start := time.Now()
	err := hosts.Ensure(ctx, os.Stdout)
	if err == nil {
		_, err = hosts.BuildKube(ctx, os.Stdout)
	}
	var skip *hosts.SkipError
	switch {
	case errors.As(err, &skip):
		fmt.Println("SKIP:", skip.Reason)
		return 3
	case err != nil:
		fmt.Fprintln(os.Stderr, "prepare:", err)
		return 1
	}
	fmt.Printf("hosts and Kubernetes are ready (%.1f s)\n", time.Since(start).Seconds())
	return 0
}
