package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	pb "example.com/worker/gen/sagad/v1"
	"example.com/worker/sagad"
	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

// removeDir is the kind of the compensation that removes a report's directory.
const removeDir = "remove-dir"

// marker is the file by which a directory tells whose it is: it holds the task_id.
const marker = ".sagad"

// The order is the payload of a saga: which report to write.
type order struct {
	Dir     string   `json:"dir"`
	Lines   []string `json:"lines"`
	PauseMS int64    `json:"pause_ms"`
}

func readOrder(payload []byte) (*order, error) {
	var o order
	var problem string
	if err := json.Unmarshal(payload, &o); err != nil {
		problem = err.Error()
	} else if o.Dir == "" {
		problem = "dir is missing"
	} else if o.Lines == nil {
		problem = "lines is missing"
	} else if o.PauseMS < 0 {
		problem = "pause_ms is negative"
	} else {
		return &o, nil
	}
	return nil, &sagad.Failure{Reason: "the payload can't be read: " + problem}
}

// writeReport does the work: registers what undoes it, makes the directory, and writes one line after the other.
func writeReport(events *slog.Logger) sagad.Work {
	return func(ctx context.Context, lease *sagad.Lease) ([]byte, error) {
		id := lease.Saga.GetTaskId()
		o, err := readOrder(lease.Saga.GetPayload())
		if err != nil {
			return nil, err
		}
		// Before the effect: should we die between the two, it is known what to look for.
		if err := lease.Register(&pb.CompensationSpec{Kind: removeDir, Target: o.Dir, Reason: "report"}); err != nil {
			return nil, err
		}
		if err := lease.Check(); err != nil {
			return nil, err
		}
		if err := makeDir(o.Dir, id); err != nil {
			return nil, err
		}
		file, err := os.Create(filepath.Join(o.Dir, "report.txt"))
		if err != nil {
			return nil, err
		}
		defer file.Close()
		report := sha256.New()
		for i, line := range o.Lines {
			n := i + 1
			pause(ctx, time.Duration(o.PauseMS)*time.Millisecond)
			if err := obey(n, line); err != nil {
				return nil, err
			}
			upper := cases.Upper(language.Und).String(line)
			text := fmt.Sprintf("%d %x %s\n", n, sha256.Sum256([]byte(upper)), upper)
			// Right before each effect: after this nothing may take long.
			if err := lease.Check(); err != nil {
				return nil, err
			}
			if _, err := file.WriteString(text); err != nil {
				return nil, err
			}
			report.Write([]byte(text))
			events.Info("line", "task_id", id, "n", n)
			lease.SetProgress(fmt.Sprintf("%d/%d", n, len(o.Lines)))
		}
		if err := file.Close(); err != nil {
			return nil, err
		}
		return []byte(hex.EncodeToString(report.Sum(nil))), nil
	}
}

// obey carries out a line that is an order.
func obey(n int, line string) error {
	switch order, length, _ := strings.Cut(line, " "); order {
	case "!fail":
		return &sagad.Failure{Reason: fmt.Sprintf("line %d says so", n)}
	case "!retry":
		return &sagad.Failure{Reason: fmt.Sprintf("line %d says so", n), Retryable: true}
	case "!spin":
		ms, err := strconv.Atoi(length)
		if err != nil {
			return &sagad.Failure{Reason: fmt.Sprintf("line %d: !spin wants milliseconds", n)}
		}
		// Work that never yields: heartbeats go on all the same.
		for end := time.Now().Add(time.Duration(ms) * time.Millisecond); time.Now().Before(end); {
		}
	}
	return nil
}

// makeDir makes a directory and marks it as the task's. One that is there already has to be the task's, by an earlier attempt.
func makeDir(dir, id string) error {
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		return os.WriteFile(filepath.Join(dir, marker), []byte(id), 0o644)
	}
	if !errors.Is(err, fs.ErrExist) {
		return &sagad.Failure{Reason: err.Error()}
	}
	if !isOurs(dir, id) {
		return &sagad.Failure{Reason: dir + " is there already, and not ours"}
	}
	return nil
}

// undoReport removes the directory, if it is the task's. One that is not there is done already.
func undoReport(_ context.Context, lease *sagad.Lease, compensation *pb.Compensation) error {
	dir := compensation.GetTarget()
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !isOurs(dir, lease.Saga.GetTaskId()) {
		return fmt.Errorf("%s is not this task's", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	// The marker goes last, so that an undo that is broken off can be gone on with.
	for _, entry := range entries {
		if entry.Name() == marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func isOurs(dir, id string) bool {
	owner, err := os.ReadFile(filepath.Join(dir, marker))
	return err == nil && bytes.Equal(owner, []byte(id))
}

func pause(ctx context.Context, length time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(length):
	}
}
