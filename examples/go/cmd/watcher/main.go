// Watcher follows the sagas whose lease ran out, and decides: what has left something behind is undone, what has not is
// planned again.
//
// It tells what happens as one JSON object a line on stdout. SIGTERM ends it.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	pb "example.com/worker/gen/sagad/v1"
	"example.com/worker/internal/settings"
	"example.com/worker/sagad"
	"github.com/google/uuid"
)

// A bookmark comes at least every ten seconds: silent for three times that, a stream is taken for dead.
const silenceMax = 30 * time.Second

// The pauses before a stream is opened again.
const (
	pauseFirst = 50 * time.Millisecond
	pauseMax   = 2 * time.Second
)

func main() {
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
	w := &watcher{
		sagas: pb.NewSagaServiceClient(conn), queues: s.Queues, actor: s.Owner, events: settings.Events(),
		file: os.Getenv("SAGAD_REVISION_FILE"),
	}
	if w.after, err = readRevision(w.file); err != nil {
		fmt.Fprintln(os.Stderr, "SAGAD_REVISION_FILE:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := w.follow(ctx); err != nil {
		log.Fatal(err)
	}
	w.events.Info("drained")
}

type watcher struct {
	sagas  pb.SagaServiceClient
	queues []string
	actor  string
	events *slog.Logger
	file   string
	// The last revision that was dealt with. nil: none, so a snapshot is asked for.
	after *int64
}

// follow opens the stream again and again, each time where it broke, until ctx is done or the coordinator refuses it.
func (w *watcher) follow(ctx context.Context) error {
	pause := pauseFirst
	for {
		received, err := w.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		refusal := sagad.RefusalOf(err)
		switch {
		case errors.As(err, new(*fileError)):
			return err
		case refusal.Reason == "REVISION_COMPACTED" || refusal.Reason == "REVISION_UNKNOWN":
			// The place to resume from is gone. A snapshot tells all that is stale now.
			log.Print(refusal)
			w.after = nil
		case !refusal.Again:
			return fmt.Errorf("the coordinator refused the watch: %w", refusal)
		}
		if received {
			pause = pauseFirst
		}
		var after int64
		if w.after != nil {
			after = *w.after
		}
		w.events.Info("reconnecting", "revision", after)
		if !sagad.Sleep(ctx, max(sagad.Jittered(pause), refusal.RetryAfter)) {
			return nil
		}
		pause = min(2*pause, pauseMax)
	}
}

// stream follows one stream to its end, and tells whether anything came.
func (w *watcher) stream(ctx context.Context) (received bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	silence := time.AfterFunc(silenceMax, func() { end(errors.New("the stream fell silent")) })
	defer silence.Stop()

	stream, err := w.sagas.WatchStale(ctx, &pb.WatchStaleRequest{Queues: w.queues, AfterRevision: w.after})
	if err != nil {
		return false, err
	}
	ready := false
	resumed := w.after != nil
	for {
		answer, err := stream.Recv()
		if err != nil {
			return received, err // a stream that just ends (io.EOF) is opened again, too
		}
		received = true
		silence.Stop() // deciding may take its time
		if !ready && (resumed || answer.GetBookmark().GetSnapshotEnd()) {
			ready = true
			w.events.Info("ready", "revision", answer.GetRevision())
		}
		if err := w.take(ctx, answer); err != nil {
			return received, err
		}
		silence.Reset(silenceMax)
	}
}

// take deals with one answer; only then its revision is kept, so that a decision that was broken off is made again.
func (w *watcher) take(ctx context.Context, answer *pb.WatchStaleResponse) error {
	switch item := answer.GetItem().(type) {
	case *pb.WatchStaleResponse_Stale:
		w.events.Info("stale", "revision", answer.GetRevision(), "task_id", item.Stale.GetTaskId(),
			"fencing_token", item.Stale.GetFencingToken(), "cause", item.Stale.GetCause().String())
		if err := w.decide(ctx, item.Stale); err != nil {
			return err
		}
	case *pb.WatchStaleResponse_Resolved:
		w.events.Info("resolved", "revision", answer.GetRevision(), "task_id", item.Resolved.GetTaskId(),
			"resolution", item.Resolved.GetResolution().String())
	}
	// Zero only in a store in which nothing has happened yet.
	if revision := answer.GetRevision(); revision > 0 {
		w.after = &revision
		if err := writeRevision(w.file, revision); err != nil {
			return &fileError{err}
		}
	}
	return nil
}

// fileError is that the place in the stream can't be kept: no use in going on.
type fileError struct{ error }

// decide decides what becomes of a stale saga, unless that is settled: being undone already, or over.
func (w *watcher) decide(ctx context.Context, stale *pb.StaleSaga) error {
	if stale.GetSaga().GetState() != pb.SagaState_SAGA_STATE_RUNNING {
		return nil
	}
	decision, reason := pb.RecoveryDecision_RECOVERY_DECISION_REQUEUE, "its worker is gone, and left nothing behind"
	if len(stale.GetSaga().GetCompensations()) > 0 {
		decision, reason = pb.RecoveryDecision_RECOVERY_DECISION_COMPENSATE, "its worker is gone, and may have left something behind"
	}
	request := &pb.RecoverRequest{
		TaskId: stale.GetTaskId(), Decision: decision, Actor: w.actor, Reason: reason,
		// About this lease and no other: a worker that has come back is not run over.
		FencingToken: stale.GetFencingToken(), RequestId: uuid.NewString(),
	}
	forever := func() time.Time { return time.Now().Add(time.Hour) }
	_, err := sagad.Call(ctx, forever, w.sagas.Recover, request)
	if err == nil {
		w.events.Info("decided", "task_id", stale.GetTaskId(), "decision", strings.TrimPrefix(decision.String(), "RECOVERY_DECISION_"))
		return nil
	}
	switch refusal := sagad.RefusalOf(err); refusal.Reason {
	case "NOT_STALE", "SAGA_TERMINAL", "SAGA_NOT_FOUND", "WRONG_STATE":
		w.events.Info("not_stale", "task_id", stale.GetTaskId(), "reason", refusal.Reason)
		return nil
	}
	return err
}

// readRevision reads the place that an earlier run has come to; nil where there is none.
func readRevision(file string) (*int64, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	revision, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || revision < 0 {
		return nil, fmt.Errorf("%s does not hold a revision", file)
	}
	return &revision, nil
}

// writeRevision replaces the file as a whole: whoever reads it finds the old revision or the new one.
func writeRevision(file string, revision int64) error {
	if file == "" {
		return nil
	}
	temporary, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(temporary, "%d\n", revision)
	err = errors.Join(err, temporary.Close())
	if err == nil {
		err = os.Rename(temporary.Name(), file)
	}
	if err != nil {
		os.Remove(temporary.Name())
	}
	return err
}
