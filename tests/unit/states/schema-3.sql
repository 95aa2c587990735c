BEGIN TRANSACTION;
CREATE TABLE attempts (
	run TEXT NOT NULL, 
	number INTEGER NOT NULL, 
	agent TEXT NOT NULL, 
	state TEXT NOT NULL, 
	trains INTEGER NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (run, number), 
	CHECK (trains IN (0, 1)), 
	UNIQUE (agent), 
	FOREIGN KEY(run) REFERENCES runs (id), 
	CHECK (number >= 1)
);
INSERT INTO "attempts" VALUES('run-past',1,'agent-past-1','ended',0,'{"reason":"interrupted","detail":"","exit_code":null,"signal":null,"permitted":true,"stop_sent":false,"stop_saves":true,"capabilities":[],"unheard_since":null,"events_through":0,"commands":0,"created_at":0.0,"started_at":null,"ended_at":null,"notice":null,"deadline_at":null,"resumed_from":null,"restored_step":null,"first_step":null,"last_step":null,"saved_step":null,"saved_at":null,"newest":null,"commits":0,"lag":null,"told_at":0.0,"end_reads":0,"store_error":"","lost_seconds":null,"lost_steps":null,"cause":null,"since":null,"noticed_at":null,"adopted":false,"gap_at":null}');
INSERT INTO "attempts" VALUES('run-past',2,'agent-past-2','launching',0,'{"reason":null,"detail":"","exit_code":null,"signal":null,"permitted":false,"stop_sent":false,"stop_saves":true,"capabilities":[],"unheard_since":null,"events_through":0,"commands":0,"created_at":0.0,"started_at":null,"ended_at":null,"notice":null,"deadline_at":null,"resumed_from":null,"restored_step":null,"first_step":null,"last_step":null,"saved_step":null,"saved_at":null,"newest":null,"commits":0,"lag":null,"told_at":0.0,"end_reads":0,"store_error":"","lost_seconds":null,"lost_steps":null,"cause":null,"since":null,"noticed_at":null,"adopted":false,"gap_at":null}');
CREATE TABLE beats (
	agent TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (agent)
);
INSERT INTO "beats" VALUES('agent-past-2',3.0,'{"phase":"training","step":null,"total_steps":null,"steps_per_second":null,"epoch":null,"loss":Infinity,"saved_step":null,"at_risk_seconds":0.0,"cpu_percent":null,"memory_percent":null,"disk_free":null,"training_rss":null,"lease_left":0.0,"last_sequence":0,"gpus":[],"stalled_seconds":0.0}');
CREATE TABLE intervals (
	run TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	machine TEXT NOT NULL, 
	attempt INTEGER NOT NULL, 
	used_for TEXT NOT NULL, 
	began DOUBLE NOT NULL, 
	ended DOUBLE, 
	price DOUBLE NOT NULL, 
	PRIMARY KEY (run, position), 
	FOREIGN KEY(machine) REFERENCES machines (id), 
	CHECK (ended >= began), 
	CHECK (price >= 0)
);
INSERT INTO "intervals" VALUES('run-past',0,'agent-past-1',1,'boot',1.0,2.0,0.25);
INSERT INTO "intervals" VALUES('run-past',1,'agent-past-1',1,'training',2.0,9.5,0.25);
INSERT INTO "intervals" VALUES('run-past',2,'agent-past-2',2,'training',9.0,NULL,0.25);
CREATE TABLE leadership (
	id INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	pid INTEGER NOT NULL, 
	since DOUBLE NOT NULL, 
	seconds DOUBLE NOT NULL, 
	renewals INTEGER NOT NULL, 
	PRIMARY KEY (id), 
	CHECK (id = 1)
);
INSERT INTO "leadership" VALUES(1,1,0,0.0,0.0,0);
CREATE TABLE machines (
	id TEXT NOT NULL, 
	run TEXT NOT NULL, 
	position INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	provider TEXT NOT NULL, 
	token TEXT NOT NULL, 
	state TEXT NOT NULL, 
	launch_order TEXT NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (run, position), 
	UNIQUE (token), 
	FOREIGN KEY(run, attempt) REFERENCES attempts (run, number)
);
INSERT INTO "machines" VALUES('agent-past-1','run-past',0,1,'local','inst-test.agent-past-1','terminated','{"token":"inst-test.agent-past-1","machine":"agent-past-1","offer":{"provider":"local","kind":"process","place":"here","price":0.25,"spot":true,"notice":120.0},"boot":"eyJib290IjogIv8AIn0=","secrets":["TOKEN"],"login":false,"hard_end":3600.0,"boot_limit":60.0,"tags":{"runctl:run":"run-past"}}','{"provider_id":"p-1","cause":null,"asks":0,"looks":0,"absent_since":null,"launched_at":null,"ended_at":null,"since":null,"looked_at":null,"trouble":""}');
INSERT INTO "machines" VALUES('agent-past-2','run-past',1,2,'local','inst-test.agent-past-2','launching','{"token":"inst-test.agent-past-2","machine":"agent-past-2","offer":{"provider":"local","kind":"process","place":"here","price":0.25,"spot":true,"notice":120.0},"boot":"eyJib290IjogIv8AIn0=","secrets":["TOKEN"],"login":false,"hard_end":3600.0,"boot_limit":60.0,"tags":{"runctl:run":"run-past"}}','{"provider_id":"","cause":null,"asks":0,"looks":0,"absent_since":null,"launched_at":null,"ended_at":null,"since":null,"looked_at":null,"trouble":""}');
CREATE TABLE meta (
	name TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema','3');
INSERT INTO "meta" VALUES('installation','inst-000000000000');
CREATE TABLE outbox (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run TEXT NOT NULL, 
	kind TEXT NOT NULL, 
	data TEXT NOT NULL
);
INSERT INTO "outbox" VALUES(1,'run-past','SendCommand','{"agent":"agent-past-2","attempt":2,"id":"cmd-1","body":{"kind":"RenewLease","fields":{"seconds":900.0}},"expires":null}');
CREATE TABLE runs (
	id TEXT NOT NULL, 
	name TEXT NOT NULL, 
	project TEXT NOT NULL, 
	state TEXT NOT NULL, 
	created_at DOUBLE NOT NULL, 
	is_open INTEGER NOT NULL, 
	is_busy INTEGER NOT NULL, 
	spec TEXT NOT NULL, 
	data TEXT NOT NULL, 
	PRIMARY KEY (id), 
	CHECK (is_open IN (0, 1)), 
	CHECK (is_busy IN (0, 1)), 
	CHECK (is_open <= is_busy)
);
INSERT INTO "runs" VALUES('run-past','run-past','past','training',5.0,1,1,'{"version":1,"run":"run-past","name":"run-past","project":"past","requested_by":"","installation":"","command":["python","train.py","--lr=\u00bd"],"workdir":"/work","env":{"SEED":"1"},"secrets":[],"store":"file:///checkpoints","resume_arg":null,"signal":"SIGUSR1","grace":30.0,"max_restarts":5,"max_seconds":null,"stall_after":null,"provider":"local","created_at":0.0}','{"wanted":"train","why":"","newest":2,"restarts":0,"fruitless":1,"stalls":0,"exit_code":null,"ended_at":null,"since":null,"retry_at":null}');
CREATE TABLE story (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	attempt INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	actor TEXT NOT NULL, 
	data TEXT NOT NULL
);
INSERT INTO "story" VALUES(1,'run-past',1.5,2,'run','user:anna','{"text":"queued \u2192 training","data":{"step":7}}');
CREATE TABLE timers (
	run TEXT NOT NULL, 
	"key" TEXT NOT NULL, 
	at DOUBLE NOT NULL, 
	PRIMARY KEY (run, "key")
);
INSERT INTO "timers" VALUES('run-past','look',12.5);
CREATE INDEX runs_busy ON runs (created_at, id) WHERE is_busy = 1;
CREATE INDEX runs_by_age ON runs (created_at, id);
CREATE INDEX runs_open ON runs (created_at, id) WHERE is_open = 1;
CREATE INDEX runs_of_project ON runs (project, created_at, id);
CREATE INDEX runs_open_of_project ON runs (project, is_open, created_at, id);
CREATE INDEX runs_of_name ON runs (name, created_at, id);
CREATE INDEX timers_by_time ON timers (at, run, "key");
CREATE INDEX story_of_run ON story (run, id);
CREATE UNIQUE INDEX attempts_one_trains ON attempts (run) WHERE trains = 1;
CREATE UNIQUE INDEX intervals_one_open ON intervals (machine) WHERE ended IS NULL;
CREATE INDEX intervals_of_machine ON intervals (machine);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('story',1);
INSERT INTO "sqlite_sequence" VALUES('outbox',1);
COMMIT;
