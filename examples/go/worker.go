// A worker of Contact, from the proto alone: what docs/protocol.md asks of a client.
//
//	go generate && go build -o worker && ./worker 127.0.0.1:50051 worker-1 workers
package main

//go:generate protoc -I../../proto --go_out=Mcontact.proto=./;main:. --go-grpc_out=Mcontact.proto=./;main:. contact.proto

import (
	"context"
	"fmt"
	"log"
	"math/rand"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	atOnce      = 4
	renewEvery  = 10 * time.Second
	mostBackoff = 30 * time.Second
)

var (
	contact    ContactClient
	ctx        context.Context           // With the metadata of every call.
	connecting = make(chan struct{}, 1)  // Leases are to be renewed at once.
	reporting  sync.Mutex                // One call after another: no WORKING may follow the result of its task.
	mutex      sync.Mutex                // Guards the following.
	inHand     = map[uint64]*ServerMsg{} // The newest delivery of each task, by its id.
)

// The work. What it returns is the result; an error puts the task back.
func handle(text string) (string, error) {
	return strings.ToUpper(text), nil
}

func untilAnswered(call func(answered func()) error) error {
	backoff := time.Second
	for {
		err := call(func() { backoff = time.Second })
		if err == nil || isFinal(err) {
			return err
		}
		time.Sleep(backoff/2 + time.Duration(rand.Int63n(int64(backoff/2))))
		if backoff *= 2; backoff > mostBackoff {
			backoff = mostBackoff
		}
	}
}

// Whether a Contact server says that it would refuse the same again. A proxy gives no details.
func isFinal(err error) bool {
	switch said := status.Convert(err); said.Code() {
	case codes.InvalidArgument, codes.NotFound, codes.Unimplemented, codes.Aborted:
		return len(said.Details()) > 0
	}
	return false
}

// Tells what `results` makes of the tasks that are in hand when the call is made. The one that it finishes is then in hand no more.
func report(finishes uint64, results func() []*Result) {
	reporting.Lock()
	defer reporting.Unlock()
	err := untilAnswered(func(func()) error {
		call, err := contact.TellResult(ctx, grpc.WaitForReady(true))
		if err != nil {
			return err
		}
		mutex.Lock()
		said := results()
		for _, result := range said {
			task := inHand[result.Id]
			result.Attempt, result.Receipt = task.Attempt, task.Receipt
		}
		mutex.Unlock()
		for _, result := range said {
			if call.Send(result) != nil {
				break // CloseAndRecv says why.
			}
		}
		_, err = call.CloseAndRecv()
		return err
	})
	if err != nil {
		log.Print("refused: ", err)
	}
	mutex.Lock()
	defer mutex.Unlock()
	delete(inHand, finishes)
}

func work(id uint64, text string) {
	result := &Result{Id: id, Outcome: Outcome_DONE}
	var err error
	if result.Ret, err = handle(text); err != nil {
		result = &Result{Id: id, Outcome: Outcome_RETRY, Ret: err.Error(), DelayMs: 1000}
	}
	report(id, func() []*Result { return []*Result{result} })
}

func renew() {
	for {
		select {
		case <-connecting:
		case <-time.After(renewEvery):
		}
		report(0, func() (working []*Result) {
			for id := range inHand {
				working = append(working, &Result{Id: id, Outcome: Outcome_WORKING})
			}
			return working
		})
	}
}

func takeTasks(answered func()) error {
	connecting <- struct{}{}
	tasks, err := contact.GetTask(ctx, &Empty{}, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	for {
		task, err := tasks.Recv()
		if err != nil {
			return err // io.EOF, too: the server is to be asked again.
		}
		answered()
		if task.Id == 0 {
			continue // A heartbeat.
		}
		mutex.Lock()
		_, begun := inHand[task.Id]
		inHand[task.Id] = task
		mutex.Unlock()
		if !begun {
			go work(task.Id, task.Task)
		}
	}
}

func main() {
	address, client, group := os.Args[1], os.Args[2], os.Args[3]
	// All of grpc 1.x has Dial and WithInsecure; later ones call them NewClient and insecure.NewCredentials.
	conn, err := grpc.Dial(address, grpc.WithInsecure(), grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second}))
	if err != nil {
		log.Fatal(err)
	}
	contact = NewContactClient(conn)
	ctx = metadata.AppendToOutgoingContext(context.Background(),
		"contact-client", url.PathEscape(client),
		"contact-group", url.PathEscape(group),
		"contact-instance", fmt.Sprintf("%d-%d", os.Getpid(), time.Now().UnixNano()), // One for each process.
		"contact-window", fmt.Sprint(atOnce), "contact-receipts", "1", "contact-heartbeat", "15")
	go renew()
	log.Fatal(untilAnswered(takeTasks))
}
