// Package settings is what the worker and the watcher share: how they are told what to do, and how they tell what happens.
package settings

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Settings are those that the worker and the watcher share.
type Settings struct {
	Server string
	Queues []string
	Owner  string
	TTL    time.Duration
}

// name is the coordinator's rule for ids and queues, their length aside.
var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$`)

// length is a number and its unit.
var length = regexp.MustCompile(`^([0-9]*\.?[0-9]+)(ms|s|m|h)?$`)

// Read reads them. An error names the variable.
func Read() (Settings, error) {
	host, _ := os.Hostname()
	s := Settings{
		Server: get("SAGAD_SERVER", "http://127.0.0.1:7420"),
		Queues: strings.Split(get("SAGAD_QUEUES", "default"), ","),
		Owner:  get("SAGAD_OWNER", fmt.Sprintf("go-%s-%d", host, os.Getpid())),
	}
	for i, queue := range s.Queues {
		queue = strings.TrimSpace(queue)
		s.Queues[i] = queue
		if len(queue) > 100 || !valid(queue) {
			return s, fmt.Errorf("SAGAD_QUEUES: %q is no name of a queue", queue)
		}
	}
	if len(s.Owner) > 200 || !valid(s.Owner) {
		return s, fmt.Errorf("SAGAD_OWNER: %q is no id", s.Owner)
	}
	ttl := get("SAGAD_TTL", "30")
	if s.TTL = readLength(ttl); s.TTL < 100*time.Millisecond || s.TTL > 24*time.Hour {
		return s, fmt.Errorf("SAGAD_TTL: %q is not a length such as 30, 30s, 500ms, 2m or 1h, from 100ms to 24h", ttl)
	}
	return s, nil
}

// readLength reads a number with a unit, or without one: then it is seconds. It answers 0 where the text is neither.
func readLength(text string) time.Duration {
	parts := length.FindStringSubmatch(text)
	if parts == nil {
		return 0
	}
	number, err := strconv.ParseFloat(parts[1], 64)
	if err != nil {
		return 0
	}
	unit := map[string]time.Duration{"ms": time.Millisecond, "s": time.Second, "": time.Second, "m": time.Minute, "h": time.Hour}
	// A longer one than the longest ttl may not fit into a Duration, and is refused anyway.
	return time.Duration(min(number*float64(unit[parts[2]]), float64(48*time.Hour)))
}

func get(variable, absent string) string {
	if value := os.Getenv(variable); value != "" {
		return value
	}
	return absent
}

func valid(id string) bool { return name.MatchString(id) && !strings.Contains(id, "..") }

// Events writes each event as one JSON object a line: {"event":"claimed","task_id":…}.
func Events() *slog.Logger {
	return slog.New(slog.NewJSONHandler(os.Stdout, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, attr slog.Attr) slog.Attr {
			switch attr.Key {
			case slog.TimeKey, slog.LevelKey:
				return slog.Attr{}
			case slog.MessageKey:
				attr.Key = "event"
			}
			return attr
		},
	}))
}
