// Worker writes reports, or, as `worker compensate`, removes what reports left behind.
//
// It tells what happens as one JSON object a line on stdout. SIGTERM: what runs is finished, nothing more is claimed. A
// second one, or SIGINT: what runs is stopped and given back.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"

	"example.com/worker/internal/settings"
	"example.com/worker/sagad"
)

func main() {
	if len(os.Args) > 2 || len(os.Args) == 2 && os.Args[1] != "compensate" {
		fmt.Fprintln(os.Stderr, "usage: worker [compensate]")
		os.Exit(2)
	}
	s, err := settings.Read()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	conn, err := sagad.Dial(s.Server)
	if err != nil {
		fmt.Fprintln(os.Stderr, "SAGAD_SERVER:", err)
		os.Exit(2)
	}
	defer conn.Close()
	worker := &sagad.Worker{Conn: conn, Queues: s.Queues, Owner: s.Owner, TTL: s.TTL, Log: settings.Events()}
	if len(os.Args) == 2 {
		worker.Undo = map[string]sagad.Undo{removeDir: undoReport}
	} else {
		worker.Work = writeReport(worker.Log)
	}

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		if <-signals == syscall.SIGTERM {
			worker.Drain()
			<-signals
		}
		stop()
	}()
	if err := worker.Run(ctx); err != nil {
		log.Fatal(err)
	}
	worker.Log.Info("drained")
}
