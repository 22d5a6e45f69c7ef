package sagad

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strings"
	"sync"
	"time"

	pb "example.com/worker/gen/sagad/v1"
	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// A claim waits in the coordinator for a third of the ttl, within these bounds.
	waitMin = time.Second
	waitMax = 20 * time.Second
	// What cleaning up after a claim that was broken off may take.
	cleanupTimeout = 2 * time.Second
	// Outcomes are tried for so long beyond the lease's deadline: late results are accepted, and the coordinator may be
	// away for a restart just then.
	reportGrace = time.Minute
	// An undo that has failed so often is left to a person. The pauses before it is tried again grow from the first.
	undoAttempts = 3
	undoPause    = time.Second
)

// Failure is an error of the work that says how the saga has failed. Any other error is a retryable failure.
type Failure struct {
	Reason string
	// Retryable tells that another attempt may help.
	Retryable bool
	// Compensations are what is left to undo and not yet registered.
	Compensations []*pb.CompensationSpec
}

func (f *Failure) Error() string { return f.Reason }

// Work does the work of one saga and answers with its result, at most 64 KiB. It has to end soon after ctx is done, and to
// ask lease.Check before each effect; what it returns then does not matter, but that a success is still reported when a
// cancel was requested.
type Work func(ctx context.Context, lease *Lease) ([]byte, error)

// Undo undoes what one compensation names. It may be called more than once, so it succeeds where nothing is left to undo.
type Undo func(ctx context.Context, lease *Lease, compensation *pb.Compensation) error

// Worker claims sagas one at a time, keeps their leases while they are worked on, and reports what came of them.
type Worker struct {
	Conn   *grpc.ClientConn
	Queues []string
	// Owner is unique to this worker.
	Owner string
	// TTL is the length of the leases, 100 ms to 24 h.
	TTL time.Duration
	// Work is done on planned sagas. Without it, compensating ones are undone.
	Work Work
	// Undo has a function for each kind of compensation. Sagas with other kinds are not claimed.
	Undo map[string]Undo
	// Log gets a line for each thing that happens to a saga.
	Log *slog.Logger

	drain struct {
		once sync.Once
		ctx  context.Context
		set  context.CancelFunc
	}
}

// Drain lets Run claim nothing more, and return when what runs is finished.
func (w *Worker) Drain() {
	w.draining()
	w.drain.set()
}

func (w *Worker) draining() context.Context {
	w.drain.once.Do(func() { w.drain.ctx, w.drain.set = context.WithCancel(context.Background()) })
	return w.drain.ctx
}

// Run works until Drain is called or ctx is done. When ctx is done, what runs is stopped, and given back. Its error is the
// coordinator's refusal of a claim, such as that of an invalid queue; a coordinator that is away is waited for.
func (w *Worker) Run(ctx context.Context) error {
	drain, cancel := context.WithCancel(w.draining())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	// The first claim does not wait: its answer tells that there is a connection.
	wait := time.Duration(0)
	for drain.Err() == nil {
		saga, asked, err := w.claim(drain, wait)
		if err != nil {
			return err
		}
		if wait == 0 && drain.Err() == nil {
			w.Log.Info("ready")
		}
		wait = min(max(w.TTL/3, waitMin), waitMax)
		if saga != nil {
			w.handle(ctx, saga, asked)
		}
	}
	return nil
}

// claim asks for one saga until the coordinator answers or drain is done. It tells from when its lease counts: when the
// claim was first sent, plus how long it was held.
func (w *Worker) claim(drain context.Context, wait time.Duration) (*pb.Saga, time.Time, error) {
	request := &pb.ClaimNextRequest{
		Queues: w.Queues, OwnerId: w.Owner, Ttl: durationpb.New(w.TTL), MaxSagas: 1, Wait: durationpb.New(wait),
		Purpose: pb.LeasePurpose_LEASE_PURPOSE_EXECUTE, RequestId: newID(),
	}
	if w.Work == nil {
		request.Purpose = pb.LeasePurpose_LEASE_PURPOSE_COMPENSATE
		for kind := range w.Undo {
			request.CompensationKinds = append(request.CompensationKinds, kind)
		}
	}
	asked, pause := time.Now(), retryFirst
	for {
		call, cancel := context.WithTimeout(drain, wait+callTimeout)
		answer, err := pb.NewSagaServiceClient(w.Conn).ClaimNext(call, request)
		cancel()
		if err == nil {
			if len(answer.GetSagas()) == 0 {
				return nil, asked, nil
			}
			return answer.GetSagas()[0], asked.Add(answer.GetWaited().AsDuration()), nil
		}
		refusal := RefusalOf(err)
		if drain.Err() == nil && !refusal.Again {
			return nil, asked, fmt.Errorf("the coordinator refused a claim: %w", refusal)
		}
		if !Sleep(drain, max(Jittered(pause), refusal.RetryAfter)) {
			w.giveBack(request)
			return nil, asked, nil
		}
		pause = min(2*pause, retryMax)
	}
}

// giveBack releases what a claim that was broken off may have claimed. Repeating it with its request_id shows that.
func (w *Worker) giveBack(request *pb.ClaimNextRequest) {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	sagas := pb.NewSagaServiceClient(w.Conn)
	request.Wait = nil
	answer, err := sagas.ClaimNext(ctx, request)
	if err != nil {
		return // what is not given back runs out
	}
	for _, saga := range answer.GetSagas() {
		_, err := sagas.Release(ctx, &pb.ReleaseRequest{
			TaskId: saga.GetTaskId(), OwnerId: w.Owner, FencingToken: saga.GetLease().GetFencingToken(),
			Reason: "the worker was told to end before it began", RequestId: newID(),
		})
		if err != nil {
			log.Printf("%s was not given back: %v", saga.GetTaskId(), err)
		}
	}
}

// handle works on a saga that was claimed, and reports.
func (w *Worker) handle(ctx context.Context, saga *pb.Saga, asked time.Time) {
	id, held := saga.GetTaskId(), saga.GetLease()
	w.Log.Info("claimed", "task_id", id, "fencing_token", held.GetFencingToken(), "attempt", saga.GetAttempt(),
		"purpose", strings.TrimPrefix(held.GetPurpose().String(), "LEASE_PURPOSE_"))
	lease := keep(ctx, pb.NewSagaServiceClient(w.Conn), saga, asked, w.Log)
	defer lease.close()
	var result []byte
	err := lease.Check()
	if err == nil && w.Work != nil {
		result, err = w.Work(lease.Context(), lease)
	} else if err == nil {
		err = w.undoAll(lease)
	}
	lost, cancelled := lease.report()
	if lost != nil || cancelled != nil {
		w.Log.Info("stopped", "task_id", id)
	}
	if lost != nil {
		return // it may be somebody else's: nothing is reported
	}
	outcome, saga, err := w.report(ctx, lease, cancelled, result, err)
	lease.close()
	if err != nil {
		w.Log.Info("refused", "task_id", id, "call", outcome.call, "reason", RefusalOf(err).Reason)
		log.Printf("%s: %s was not accepted: %v", id, outcome.call, err)
		return
	}
	w.Log.Info(outcome.event, "task_id", id, "state", saga.GetState().String())
}

// An outcome is what is reported, and the event of its acceptance.
type outcome struct{ call, event string }

// parked is an error of the work that only a person can help with.
type parked struct{ reason string }

func (p *parked) Error() string { return p.reason }

// refused is the coordinator's refusal of a call that the work made.
type refused struct {
	call string
	*Refusal
}

// report tells the coordinator how the work has ended, again until it has accepted or refused that.
func (w *Worker) report(ctx context.Context, lease *Lease, cancelled *Cancelled, result []byte, err error) (outcome, *pb.Saga, error) {
	sagas, id, owner, token := lease.sagas, lease.Saga.GetTaskId(), lease.owner, lease.token
	late := func() time.Time { return lease.Deadline().Add(reportGrace) }
	background, progress := context.WithoutCancel(ctx), lease.unsentProgress()

	var failure *Failure
	var park *parked
	var refusal *refused
	switch {
	case err == nil && w.Work != nil:
		answer, err := Call(background, late, sagas.Complete, &pb.CompleteRequest{
			TaskId: id, OwnerId: owner, FencingToken: token, Result: result, Progress: progress, RequestId: newID(),
		})
		return outcome{"Complete", "completed"}, answer.GetSaga(), err
	case err == nil:
		answer, err := Call(background, late, sagas.Compensate, &pb.CompensateRequest{
			TaskId: id, OwnerId: owner, FencingToken: token, RequestId: newID(),
		})
		return outcome{"Compensate", "compensated"}, answer.GetSaga(), err
	case errors.As(err, &refusal):
		return outcome{refusal.call, ""}, nil, refusal.Refusal
	case cancelled != nil:
		failure = &Failure{Reason: cancelled.Error()}
	case ctx.Err() != nil:
		// Unlike the others it is refused once the lease has run out, so it is not tried for longer.
		answer, err := Call(background, lease.Deadline, sagas.Release, &pb.ReleaseRequest{
			TaskId: id, OwnerId: owner, FencingToken: token, Reason: "the worker was told to end", Progress: progress, RequestId: newID(),
		})
		return outcome{"Release", "released"}, answer.GetSaga(), err
	case errors.As(err, &park):
		return w.quarantine(background, lease, late, park.reason)
	case !errors.As(err, &failure):
		failure = &Failure{Reason: err.Error(), Retryable: true}
	}
	answer, err := Call(background, late, sagas.Fail, &pb.FailRequest{
		TaskId: id, OwnerId: owner, FencingToken: token, Reason: text(failure.Reason), Retryable: failure.Retryable,
		Compensations: failure.Compensations, Progress: progress, RequestId: newID(),
	})
	if err != nil && RefusalOf(err).Reason == "COMPENSATION_REQUIRED" {
		// It can't be said to have failed without anything to undo it: a person has to look at it.
		return w.quarantine(background, lease, late, failure.Reason)
	}
	return outcome{"Fail", "failed"}, answer.GetSaga(), err
}

func (w *Worker) quarantine(ctx context.Context, lease *Lease, late func() time.Time, reason string) (outcome, *pb.Saga, error) {
	answer, err := Call(ctx, late, lease.sagas.Quarantine, &pb.QuarantineRequest{
		TaskId: lease.Saga.GetTaskId(), OwnerId: lease.owner, FencingToken: lease.token, Reason: text(reason), RequestId: newID(),
	})
	return outcome{"Quarantine", "quarantined"}, answer.GetSaga(), err
}

// undoAll undoes every compensation that is neither done nor waived, the last first, and records each outcome.
func (w *Worker) undoAll(lease *Lease) error {
	ctx, pause, saga := lease.Context(), undoPause, lease.Saga
	for {
		next := nextToUndo(saga)
		if next == nil {
			return nil
		}
		undo := w.Undo[next.GetKind()]
		switch {
		case undo == nil:
			return &parked{fmt.Sprintf("nobody here undoes %q (position %d)", next.GetKind(), next.GetPosition())}
		case next.GetAttempts() >= undoAttempts:
			return &parked{fmt.Sprintf("%s (position %d) failed %d times, at last: %s", next.GetKind(), next.GetPosition(), next.GetAttempts(), next.GetLastError())}
		case next.GetState() == pb.CompensationState_COMPENSATION_STATE_FAILED:
			Sleep(ctx, pause)
			pause *= 2
		}
		if err := lease.Check(); err != nil {
			return err
		}
		outcome, detail := pb.CompensationOutcome_COMPENSATION_OUTCOME_DONE, ""
		if err := undo(ctx, lease, next); err != nil {
			if stopped := lease.Check(); stopped != nil {
				return stopped // whether it is undone is not known
			}
			outcome, detail = pb.CompensationOutcome_COMPENSATION_OUTCOME_FAILED, text(err.Error())
		}
		answer, err := under(lease, lease.sagas.RecordCompensation, &pb.RecordCompensationRequest{
			TaskId: saga.GetTaskId(), OwnerId: lease.owner, FencingToken: lease.token,
			Position: next.GetPosition(), Outcome: outcome, Detail: detail, RequestId: newID(),
		})
		if refusal := (*Refusal)(nil); errors.As(err, &refusal) {
			return &refused{"RecordCompensation", refusal}
		} else if err != nil {
			return err
		}
		w.Log.Info("settled", "task_id", saga.GetTaskId(), "position", next.GetPosition(),
			"outcome", strings.TrimPrefix(outcome.String(), "COMPENSATION_OUTCOME_"))
		saga = answer.GetSaga()
	}
}

func nextToUndo(saga *pb.Saga) *pb.Compensation {
	compensations := saga.GetCompensations()
	for i := len(compensations) - 1; i >= 0; i-- {
		switch compensations[i].GetState() {
		case pb.CompensationState_COMPENSATION_STATE_DONE, pb.CompensationState_COMPENSATION_STATE_WAIVED:
		default:
			return compensations[i]
		}
	}
	return nil
}

// text cuts a reason to what the coordinator takes: 4 KiB of UTF-8, not empty.
func text(reason string) string {
	const most = 4096
	if reason == "" {
		return "no reason given"
	}
	if len(reason) > most {
		reason = reason[:most]
	}
	return strings.ToValidUTF8(reason, "")
}

// newID is a request_id: a call that is repeated with it does not happen twice.
func newID() string { return uuid.NewString() }
