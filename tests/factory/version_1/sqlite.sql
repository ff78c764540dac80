BEGIN TRANSACTION;
CREATE TABLE attempts (
	id INTEGER NOT NULL, 
	"key" VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	host VARCHAR, 
	pid INTEGER, 
	started VARCHAR, 
	finished VARCHAR, 
	wall_s FLOAT, 
	cpu_s FLOAT, 
	peak_rss_mib FLOAT, 
	error_class VARCHAR, 
	error_message VARCHAR, 
	output_tail VARCHAR, 
	PRIMARY KEY (id), 
	CONSTRAINT one_row_per_attempt UNIQUE ("key", host, pid, started), 
	FOREIGN KEY("key") REFERENCES calculations ("key")
);
INSERT INTO "attempts" VALUES(1,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:55.564+00:00','2026-12-01T04:13:55.564+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
INSERT INTO "attempts" VALUES(2,'1f59f1f97d7aa798a8bd30dd5a146902ad03900730e663312faeebfadefe04f3','done','vm',23651,'2026-12-01T04:13:41.680851+00:00','2026-12-01T04:13:55.525357+00:00',1.57381251000060728983e-01,9.99999999999978683717e-03,83.80078125,NULL,NULL,'');
INSERT INTO "attempts" VALUES(3,'dbf59a205e1131237f0dde533ed42d87333f4acc6a2bbc475209b827c8172abc','done','vm',23651,'2026-12-01T04:13:55.665320+00:00','2026-12-01T04:13:55.743820+00:00',7.53205660003004595637e-02,0.0,83.81640625,NULL,NULL,'');
INSERT INTO "attempts" VALUES(4,'612407128fb72bdbe66f31c3c9f6a7d9c78598c58dbe91eac004084c25727b03','done','vm',23651,'2026-12-01T04:13:55.793387+00:00','2026-12-01T04:13:55.879538+00:00',7.10049140002411149907e-02,0.0,83.8203125,NULL,NULL,'');
INSERT INTO "attempts" VALUES(5,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:55.945+00:00','2026-12-01T04:13:55.945+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
INSERT INTO "attempts" VALUES(6,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:55.988+00:00','2026-12-01T04:13:55.988+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
INSERT INTO "attempts" VALUES(7,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:56.028+00:00','2026-12-01T04:13:56.028+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
INSERT INTO "attempts" VALUES(8,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:56.064+00:00','2026-12-01T04:13:56.064+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
INSERT INTO "attempts" VALUES(9,'0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','failed',NULL,NULL,'2026-12-01T04:13:56.104+00:00','2026-12-01T04:13:56.104+00:00',NULL,NULL,NULL,'engine_lost','RuntimeError: the engine is gone',NULL);
CREATE TABLE calculations (
	"key" VARCHAR NOT NULL, 
	record_id VARCHAR, 
	level VARCHAR NOT NULL, 
	program VARCHAR NOT NULL, 
	program_version VARCHAR NOT NULL, 
	label VARCHAR NOT NULL, 
	input VARCHAR NOT NULL, 
	cost FLOAT NOT NULL, 
	state VARCHAR NOT NULL, 
	error_class VARCHAR, 
	error_message VARCHAR, 
	created VARCHAR NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY(record_id) REFERENCES records (record_id)
);
INSERT INTO "calculations" VALUES('1f59f1f97d7aa798a8bd30dd5a146902ad03900730e663312faeebfadefe04f3','water-0','GFN2-xTB','tblite','0.8.0','water','{"id": null, "molecule": {"extras": {}, "fix_com": true, "fix_orientation": true, "fix_symmetry": "c1", "geometry": [0.0, 0.0, 0.22166487, 0.0, 1.43090062, -0.8866595, 0.0, -1.43090062, -0.8866595], "molecular_charge": 0.0, "molecular_multiplicity": 1.0, "name": "H2O", "provenance": {"creator": "QCElemental", "routine": "qcelemental.molparse.from_schema", "version": "0.51.4"}, "schema_name": "qcschema_molecule", "schema_version": 3, "symbols": ["O", "H", "H"], "validated": true}, "provenance": {"creator": "QCElemental", "routine": "qcelemental.models.v2.atomic", "version": "0.51.4"}, "schema_name": "qcschema_atomic_input", "schema_version": 2, "specification": {"driver": "gradient", "extras": {"sddfkit": {"level": "GFN2-xTB", "memory_gib": 2.0, "threads": 1}}, "keywords": {}, "model": {"basis": null, "method": "GFN2-xTB"}, "program": "tblite", "protocols": {"error_correction": {"default_policy": true, "policies": null}, "native_files": "none", "schema_name": "qcschema_atomic_protocols", "stdout": true, "wavefunction": "none"}, "schema_name": "qcschema_atomic_specification"}}',6859.0,'done',NULL,NULL,'2026-12-01T04:13:41.581+00:00');
INSERT INTO "calculations" VALUES('dbf59a205e1131237f0dde533ed42d87333f4acc6a2bbc475209b827c8172abc','water-1','GFN2-xTB','tblite','0.8.0','water','{"id": null, "molecule": {"extras": {}, "fix_com": true, "fix_orientation": true, "fix_symmetry": "c1", "geometry": [0.0, 0.0, 0.22388152, 0.0, 1.44520963, -0.89552609, 0.0, -1.44520963, -0.89552609], "molecular_charge": 0.0, "molecular_multiplicity": 1.0, "name": "H2O", "provenance": {"creator": "QCElemental", "routine": "qcelemental.molparse.from_schema", "version": "0.51.4"}, "schema_name": "qcschema_molecule", "schema_version": 3, "symbols": ["O", "H", "H"], "validated": true}, "provenance": {"creator": "QCElemental", "routine": "qcelemental.models.v2.atomic", "version": "0.51.4"}, "schema_name": "qcschema_atomic_input", "schema_version": 2, "specification": {"driver": "gradient", "extras": {"sddfkit": {"level": "GFN2-xTB", "memory_gib": 2.0, "threads": 1}}, "keywords": {}, "model": {"basis": null, "method": "GFN2-xTB"}, "program": "tblite", "protocols": {"error_correction": {"default_policy": true, "policies": null}, "native_files": "none", "schema_name": "qcschema_atomic_protocols", "stdout": true, "wavefunction": "none"}, "schema_name": "qcschema_atomic_specification"}}',6859.0,'done',NULL,NULL,'2026-12-01T04:13:41.581+00:00');
INSERT INTO "calculations" VALUES('0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c','water-2','GFN2-xTB','tblite','0.8.0','water','{"id": null, "molecule": {"extras": {}, "fix_com": true, "fix_orientation": true, "fix_symmetry": "c1", "geometry": [0.0, 0.0, 0.22609817, 0.0, 1.45951863, -0.90439269, 0.0, -1.45951863, -0.90439269], "molecular_charge": 0.0, "molecular_multiplicity": 1.0, "name": "H2O", "provenance": {"creator": "QCElemental", "routine": "qcelemental.molparse.from_schema", "version": "0.51.4"}, "schema_name": "qcschema_molecule", "schema_version": 3, "symbols": ["O", "H", "H"], "validated": true}, "provenance": {"creator": "QCElemental", "routine": "qcelemental.models.v2.atomic", "version": "0.51.4"}, "schema_name": "qcschema_atomic_input", "schema_version": 2, "specification": {"driver": "gradient", "extras": {"sddfkit": {"level": "GFN2-xTB", "memory_gib": 2.0, "threads": 1}}, "keywords": {}, "model": {"basis": null, "method": "GFN2-xTB"}, "program": "tblite", "protocols": {"error_correction": {"default_policy": true, "policies": null}, "native_files": "none", "schema_name": "qcschema_atomic_protocols", "stdout": true, "wavefunction": "none"}, "schema_name": "qcschema_atomic_specification"}}',6859.0,'failed','engine_lost','RuntimeError: the engine is gone','2026-12-01T04:13:41.581+00:00');
INSERT INTO "calculations" VALUES('612407128fb72bdbe66f31c3c9f6a7d9c78598c58dbe91eac004084c25727b03',NULL,'GFN2-xTB','tblite','0.8.0','atom 1','{"id": null, "molecule": {"extras": {}, "fix_com": true, "fix_orientation": true, "fix_symmetry": "c1", "geometry": [0.0, 0.0, 0.0], "molecular_charge": 0.0, "molecular_multiplicity": 2.0, "name": "H", "provenance": {"creator": "QCElemental", "routine": "qcelemental.molparse.from_schema", "version": "0.51.4"}, "schema_name": "qcschema_molecule", "schema_version": 3, "symbols": ["H"], "validated": true}, "provenance": {"creator": "QCElemental", "routine": "qcelemental.models.v2.atomic", "version": "0.51.4"}, "schema_name": "qcschema_atomic_input", "schema_version": 2, "specification": {"driver": "energy", "extras": {"sddfkit": {"level": "GFN2-xTB", "memory_gib": 2.0, "threads": 1}}, "keywords": {}, "model": {"basis": null, "method": "GFN2-xTB"}, "program": "tblite", "protocols": {"error_correction": {"default_policy": true, "policies": null}, "native_files": "none", "schema_name": "qcschema_atomic_protocols", "stdout": true, "wavefunction": "none"}, "schema_name": "qcschema_atomic_specification"}}',8.0,'done',NULL,NULL,'2026-12-01T04:13:41.581+00:00');
INSERT INTO "calculations" VALUES('9dac45c8c296e2c24c3d5355d0cd9a407590af6694d4716d89eaa2ff0218bcd6','water-3','GFN2-xTB','tblite','0.8.0','water','{"id": null, "molecule": {"extras": {}, "fix_com": true, "fix_orientation": true, "fix_symmetry": "c1", "geometry": [0.0, 0.0, 0.22831482, 0.0, 1.47382764, -0.91325928, 0.0, -1.47382764, -0.91325928], "molecular_charge": 0.0, "molecular_multiplicity": 1.0, "name": "H2O", "provenance": {"creator": "QCElemental", "routine": "qcelemental.molparse.from_schema", "version": "0.51.4"}, "schema_name": "qcschema_molecule", "schema_version": 3, "symbols": ["O", "H", "H"], "validated": true}, "provenance": {"creator": "QCElemental", "routine": "qcelemental.models.v2.atomic", "version": "0.51.4"}, "schema_name": "qcschema_atomic_input", "schema_version": 2, "specification": {"driver": "gradient", "extras": {"sddfkit": {"level": "GFN2-xTB", "memory_gib": 2.0, "threads": 1}}, "keywords": {}, "model": {"basis": null, "method": "GFN2-xTB"}, "program": "tblite", "protocols": {"error_correction": {"default_policy": true, "policies": null}, "native_files": "none", "schema_name": "qcschema_atomic_protocols", "stdout": true, "wavefunction": "none"}, "schema_name": "qcschema_atomic_specification"}}',6859.0,'ready',NULL,NULL,'2026-12-01T04:13:56.160+00:00');
CREATE TABLE lease (
	id INTEGER NOT NULL, 
	host VARCHAR NOT NULL, 
	pid INTEGER NOT NULL, 
	process_started FLOAT NOT NULL, 
	heartbeat VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE meta (
	name VARCHAR NOT NULL, 
	value VARCHAR, 
	PRIMARY KEY (name)
);
INSERT INTO "meta" VALUES('schema_version','1');
INSERT INTO "meta" VALUES('store_id','1dd943852651446c847439427473a313');
CREATE TABLE records (
	record_id VARCHAR NOT NULL, 
	molecule_id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	document VARCHAR NOT NULL, 
	created VARCHAR NOT NULL, 
	PRIMARY KEY (record_id)
);
INSERT INTO "records" VALUES('water-0','O','water','{"al_round": -1, "atomic_numbers": [8, 1, 1], "bonds": [[0, 1, 0], [0, 2, 0]], "charge": 0, "code_version": "", "conformer": 0, "dipole": null, "energy": null, "forces": null, "formal_charges": [0, 0, 0], "level": "", "molecule_id": "O", "multiplicity": 1, "name": "water", "origin": "", "parent": "", "positions": [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]], "program": "", "program_version": "", "qc_flags": [], "record_id": "water-0", "result_key": "", "smiles": "O"}','2026-12-01T04:13:41.509+00:00');
INSERT INTO "records" VALUES('water-1','O','water','{"al_round": -1, "atomic_numbers": [8, 1, 1], "bonds": [[0, 1, 0], [0, 2, 0]], "charge": 0, "code_version": "", "conformer": 1, "dipole": null, "energy": null, "forces": null, "formal_charges": [0, 0, 0], "level": "", "molecule_id": "O", "multiplicity": 1, "name": "water", "origin": "", "parent": "", "positions": [[0.0, 0.0, 0.11847300000000001], [0.0, 0.764772, -0.47389200000000004], [0.0, -0.764772, -0.47389200000000004]], "program": "", "program_version": "", "qc_flags": [], "record_id": "water-1", "result_key": "", "smiles": "O"}','2026-12-01T04:13:41.510+00:00');
INSERT INTO "records" VALUES('water-2','O','water','{"al_round": -1, "atomic_numbers": [8, 1, 1], "bonds": [[0, 1, 0], [0, 2, 0]], "charge": 0, "code_version": "", "conformer": 2, "dipole": null, "energy": null, "forces": null, "formal_charges": [0, 0, 0], "level": "", "molecule_id": "O", "multiplicity": 1, "name": "water", "origin": "", "parent": "", "positions": [[0.0, 0.0, 0.119646], [0.0, 0.772344, -0.478584], [0.0, -0.772344, -0.478584]], "program": "", "program_version": "", "qc_flags": [], "record_id": "water-2", "result_key": "", "smiles": "O"}','2026-12-01T04:13:41.510+00:00');
INSERT INTO "records" VALUES('water-3','O','water','{"al_round": -1, "atomic_numbers": [8, 1, 1], "bonds": [[0, 1, 0], [0, 2, 0]], "charge": 0, "code_version": "", "conformer": 3, "dipole": null, "energy": null, "forces": null, "formal_charges": [0, 0, 0], "level": "", "molecule_id": "O", "multiplicity": 1, "name": "water", "origin": "", "parent": "", "positions": [[0.0, 0.0, 0.12081900000000001], [0.0, 0.779916, -0.48327600000000004], [0.0, -0.779916, -0.48327600000000004]], "program": "", "program_version": "", "qc_flags": [], "record_id": "water-3", "result_key": "", "smiles": "O"}','2026-12-01T04:13:41.510+00:00');
CREATE TABLE requests (
	batch VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	PRIMARY KEY (batch, "key"), 
	FOREIGN KEY("key") REFERENCES calculations ("key")
);
INSERT INTO "requests" VALUES('first','0d0d3aaf09541d18fd6585833f4085a5f0a2769a40b1ef5e6fe0242e7234d05c');
INSERT INTO "requests" VALUES('first','1f59f1f97d7aa798a8bd30dd5a146902ad03900730e663312faeebfadefe04f3');
INSERT INTO "requests" VALUES('first','612407128fb72bdbe66f31c3c9f6a7d9c78598c58dbe91eac004084c25727b03');
INSERT INTO "requests" VALUES('first','dbf59a205e1131237f0dde533ed42d87333f4acc6a2bbc475209b827c8172abc');
INSERT INTO "requests" VALUES('second','9dac45c8c296e2c24c3d5355d0cd9a407590af6694d4716d89eaa2ff0218bcd6');
CREATE TABLE results (
	"key" VARCHAR NOT NULL, 
	energy_hartree FLOAT NOT NULL, 
	document BLOB NOT NULL, 
	ingested VARCHAR NOT NULL, 
	PRIMARY KEY ("key"), 
	FOREIGN KEY("key") REFERENCES calculations ("key")
);
INSERT INTO "results" VALUES('1f59f1f97d7aa798a8bd30dd5a146902ad03900730e663312faeebfadefe04f3',-5.07037076453329227376e+00,X'789CED564B6FE33610FE2B81CE6B81A4283E7A6BB7DBEEA52FA097A2080485A26D2294E8A5282746E0FFDE2145F9914D90BDEC252860C8D4CCF09BF78C9E8A516D75DF3643DBEBE2879BE28BCA8436B8DEA8C6EB71B2A1F870B308EEB51F8D1B409600D1747018266BE379D84DA1E9DAD002EDE98AF5869274F3551DBDB35A4D5627D4D7904E422FA15440DCB7D6806D3A5A15FCA4A3DCA1BF737604C2BFC51FF1E2E7F9710BCF8D76BD0EFE1099A8441F6EF28310CC18153C1370492B24116260E80A95423056CB3A33572F7323FC62FF67921467EB5BDFA86DEB379195102E183DA4C1ECAC512644A37062AFCD63A35C7F7629129C377A086D987DBF6080BF8B4F85C251EFCEBBBD1EDA41CDC1555E43467CE4FFF5F193D57DC4B151F01CCB029535F81589DE4DC10C390F7A112FC1E65DEB475DAEBDEB9B3919C511E4F563F06D0CF7D331BE8E3BADCCDAA8C5D2D7939BCBE4FA0220DCEBC383F3DD0C39BBB3F16D0C4711EEAC09A91A3A6FC0FA48035E17433347BCD3362985906C5DAC8AE2D75F7E27ABC7BF7F8AFCBB7634632EE00C1D9C9AABE54D43CFC270F3A1DDEBF534A8EC6531B861AED2D041FCCE19D2DE3BC8BFF35EAB53443ABD6E21F1CDCE41E60F67E1F46EF4A585038465AF9BB5B1893CEBB90E7B3176DDFADE8474B67A9F2270E576AF7BE70FCDC6DCC5E64B3516B6501529C6F8783C7EBFA2817C8CE59E94730C8BA4EAFFD67F9FAD0FCA77DA87B980BFA59D1669B8AB5AABCCB076CDB0F428BBA2C64B39F15E87C90F8D1EB4DF44D757758938AA38E28CD6554524390B9D8603649D40BE6A5C450941319654AF308F19875724A4E435D401E51590594A382292A29A724CE04730E65007ABAAAC18E535AE0912808167905514A794304C2B89E1C83162998C2947845735831F9292010A2DB96418EE23C9051420011431EBBC0461428A174030F0D86DEA8B75D319981A1ADAA5CF6EAEC04F0AA28232F89380923D12654518E38401072A97D393E9425675F405730016F5093B3848FF1B813ECBBDE3581FBF9EF8F91B28D759FEA07A7F9E5FAEB4E5B32F74B0D5CEEFCF5654DAD9E3A4941EC78BD5F6EA603AEFF4AB99244AF46C24E535577E516960ECA648FCF1B79F6F3EFDF9CFC748DABA312CD366DF47CA346ABF50BC73E91B0126DBB001C8E67A049259DF436B6D134C3F4F6C8CA82482D435640173C6D9B3CD0B33DC9A7B3DE4299F360F0432C60F315C41F66AE8C3B43E8880CC5608301074A0905FD324A6B7C98BDE350017BC8E46001CA59C4A0AA5C1B084BAC22064A72B21C89D44B8E23422C5FE14D5F1F81FA1D27493','2026-12-01T04:13:55.610+00:00');
INSERT INTO "results" VALUES('dbf59a205e1131237f0dde533ed42d87333f4acc6a2bbc475209b827c8172abc',-5.0703069724012,X'789CED564B6FE33610FE2B86CEB1C037A9DEDAEDB67BE90BE8A5280241A1689B88247A29CA8911F8BF774851B19DADBBBDF412F42248DF0CBF7972462FC5A877A66FEAA1E94DF1CDAAF8AC33D004D75B5D7B334E5D28EE568BE2C1F8D1BA01740980B6859761EABAF83EECA750B74D68007BB9127DC5483A79D346EF3AA3A7CE24D65B4CAF4A7FC742013C349D05DF4CF42AF8C944BD63FFE0BA11803F8B5FE2C14FF3E31E9E5BE37A13FC310A5189EE56F94108550A7392015C32C609AA049858A352559C1381AA2C5DDF1047034B049F48329DFD6F7CAD778DDF4651A2B810F45008BBEFACB621BA859378639F6BEDFA73501170DE9A2134618EFE4200112F51151A47BB7BEF0E6668063DA7577B0335F151FEDB878F9DE9234F1715CFD92C50C921B0087A37053BE44A9845BD049FF78D1F4DB9F1AEAFE7721427D037CFC13731E12FA7F839EE8DB61BAB174F6F973737CAF501607834C727E7DB99720E67EB9B988E223C7436A47E68BD05EF2306B236A666CE786BBA641452B273B12F8A1F7FF899AC9F7FFF2ECA1F9AD18EB9853375707AEE97AF3A7A5686934FCDC16CA641E7288BC10D739F8616F277AE90F1DE41FD9DF746BF66A4359B060A5FEF1D54FE78564EDFD65C7A38405A0EA6DED82EC1B39DEBB41763DB6E1E6D48EF9D39A40C5C85DD9BDEF963BDB50FF1FAA51E0B3BE88A94637C3A9DFEBBA6817A8CE58194730E8B64EAFFCBFF5E2F3F18DF1B1FE616FE37176AD186B3BAE9B41D36AE1E965B2AAED0782897DE9B30F9A13683F1DB18FA9A9748228A44250943989C555E8703547DCDCA4A71C630A18C09A4A8326B2CEF56B4544C55584A1010CA199E61A81626BC629C215951903201282F31C58A4AC5312512585E95119114292239661553143A23B5084282805BE05E2594E292D2B98D047C0B2C94105254914565F52B1A46E50D96FB742F36756B616A18B82EFD12A6282BC495229C60CE11561CC82195EBAA841818F00ACE24C4367B9EBB18821320A418F817EAE0A0F6FF98E5B3D63B4EF4E9CB719F7F817293E5FFA9F717F9E53E5BFEFA420B2BEDFCFD663FA5853D4E5A9B71BCD86B3767D279A15F8D2355A237D328EFB8F2B34EB3623F45F0DB9FBE5F7DFCF58F0F11DAB9312C83E6D047641A8D5F10EF5CFA4180A1366C81B2BE9E7E64B6F7D4745D1D6C9F8735A34A28A910A60223C5DE6C5D98DE9D7D34439EEF69EB401AB980652211C34A520E154F3B46212968DC1B54482E2BF625A8B0B84F51F4AE06BEE04D7402F818DCD5541AAE2A06CD054ADD74A5049E4A561184286C22A60412E274FA0B1964755B','2026-12-01T04:13:55.903+00:00');
INSERT INTO "results" VALUES('612407128fb72bdbe66f31c3c9f6a7d9c78598c58dbe91eac004084c25727b03',-3.93482763931793544376e-01,X'789CED55CB6EDB3010FC1583E744B0E487ECDCDA346D2E2D5AA097A208089A5AD944F850484A8911E8DFBBA4A4C84EE2A697023DF4624BC3E5EE7266477C248EEF4031AA990272312177BC0798374A706AC1D5D293B3C910D88075C2688CCD1014053EE85ACAF0ACABDAD3827986D8E3D1D21B45E2CE93359491C06B0931EBA94C4F41AF659921D83029B037085D795B4388DBAB8D910E819FE49ADC20B205A3C0DB7D80A6C9F46C32FC84C5A1E635199B6296F21DB3DBB010630F161412272A29B8F0216116974BF140B951631301305680F6CC77DD1E2C6087433F84A7A16E654D039A69DED1C12D208736AC7FBBBC92A0421E1902C7D39369B248937900ADA9BDD03D73308427D873C5AC83A4B446D18E3ED2623C3C78CB02418F6D78751570510A3E747A5A8E5ED8E30D98E116F6F7C6165DCAEE385BCB021DC46FA4F051BFC20AEC3E60A0C16EF71DDF05C8581209D999A022F9F4F14B76FEF0FD7D58DF30275C3F707D626F78A7EE9B6D8EC1B8F39E3550D69AF76724DAE86EAA7C81EC8DFA80B506D537D6027FE2A38092A1ECB432A8FB7E0C8EEF020E3BD4484A03B41432C25D9D63D2892B8AF256F8F82CA1890C1C1D5B8132764FB762F334617E873311194EDBB6FD7B23837AB8A4C9928E43124BFDB7EABF62552C5E81F5DDC8FD89018668DCCB99E4429786EAC155E9111A36F5A0055F5B4D7B9F5E4CCEA7C96C3D9BAFB27C89FF69BE9E2DE651E69216024D00A87E38C9ABAA85286FF094BFCFD7BE34697FCDF4DDF477D6E96E06270FB7932FD0CCE3FB3367C60F95AB3907E70E1C7D52DDF1437624EC2A993ED3B5777772C723EB551DC0779F3F4CAEBEFEB80CD0CE383F48D6A880D40EEC805863E2A589E3A1B798921ECF51D6D5BB6752522F543FF6D9623D5FE7E972B1CCD748C972FEEC8B834E90E21674EF95E8B8344967B37C962F90C9D5324FF3399CA7E94D6C50198A81DE02BCE03B5FA5D9B26D7F013B6AB1B9','2026-12-01T04:13:55.926+00:00');
CREATE TABLE rounds (
	run VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	record_id VARCHAR NOT NULL, 
	rank INTEGER NOT NULL, 
	score FLOAT, 
	reason VARCHAR NOT NULL, 
	PRIMARY KEY (run, round, record_id), 
	FOREIGN KEY(record_id) REFERENCES records (record_id)
);
INSERT INTO "rounds" VALUES('loop',0,'water-3',0,0.5,'the ensemble disagrees');
CREATE INDEX ix_records_molecule_id ON records (molecule_id);
CREATE INDEX ix_calculations_record_id ON calculations (record_id);
CREATE INDEX ix_calculations_state ON calculations (state);
CREATE INDEX ix_attempts_key ON attempts ("key");
COMMIT;
