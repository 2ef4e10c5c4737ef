/** Entry of the threads that walk model folders and read headers. */
import { serveScan } from '../registry/index.js';

serveScan();
